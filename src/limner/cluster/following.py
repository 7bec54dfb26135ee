"""Follows a job while it lives: its log as it grows, or just its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from limner.cluster import queue, records
from limner.errors import ClusterError

POLL_SECONDS = 1.0
TAIL_BYTES = 1_000_000


def follow(job: str, *, lines: int, follow: bool, write: Callable[[str], None]) -> None:
    """Write the last lines of a job's log, and with `follow` what comes after, until the job ends or Ctrl-C.

    Raises: ClusterError when there is no such job, or it has written nothing and will not.
    """
    path = records.log_of(queue.check_id(job))
    if not path.is_file() and not (follow and _lives(job)):
        found = queue.find_job(job)
        words = queue.explain(found.reason) if found.pending else f"is {found.state.lower()}"
        raise ClusterError(f"job {job} has no log yet: it {words}.\nTry: limner cluster logs {job} -f")
    text, position = _tail(path, lines)
    write(text)
    try:
        while follow:
            lives = _lives(job)
            text, position = _from(path, position)
            if text:
                write(text)
            elif not lives:
                return
            else:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return


def until_over(job: str) -> None:
    """Return when a job has ended."""
    while _lives(job):
        time.sleep(POLL_SECONDS)


def _lives(job: str) -> bool:
    try:
        return not queue.find_job(job).over
    except ClusterError:
        return False


def _tail(path: Path, lines: int) -> tuple[str, int]:
    """The last lines of a file and its size; what was not there yet is empty."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read(TAIL_BYTES)
    except OSError:
        return "", 0
    kept = data.splitlines(keepends=True)[-lines:] if lines else []
    return b"".join(kept).decode("utf-8", "replace"), size


def _from(path: Path, position: int) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(TAIL_BYTES)
    except OSError:
        return "", position
    return data.decode("utf-8", "replace"), position + len(data)
