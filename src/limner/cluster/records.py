"""Remembers which job belongs to which run: Slurm forgets a job minutes after its end, and its comment field is public.

One small JSON file a job in the user's own state folder (mode 0600), and the id of the newest training job in the run
folder.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from limner.cluster import queue
from limner.errors import ClusterError


@dataclass(frozen=True)
class Record:
    """What is remembered of a job: its kind (train, cache, eval, jupyter, tensorboard), run folder and log pattern."""

    job: str
    kind: str
    log: str
    run: str = ""
    runs: tuple[str, ...] = ()
    submitted: float = 0.0


def state_folder(*names: str) -> Path:
    """Return a folder of the user's own for limner's state on this cluster, made with mode 0700."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = base.joinpath("limner", *names)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, complete or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


def remember(record: Record) -> None:
    """Keep a record, dated now, and drop those older than 90 days."""
    folder = state_folder("jobs")
    values = {**asdict(record), "submitted": time.time()}
    write_private(folder / f"{record.job}.json", json.dumps(values))
    if record.run and record.kind == "train":
        write_private(Path(record.run) / "job.json", json.dumps({"job": record.job, "kind": record.kind}))
    for old in folder.glob("*.json"):
        if old.stat().st_mtime < time.time() - 90 * 86400:
            old.unlink(missing_ok=True)


def recall(job: str) -> Record | None:
    """Return what is remembered of a job or array task, or None."""
    path = state_folder("jobs") / f"{queue.check_id(job).partition('_')[0]}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Record)}
        record = Record(**{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError):
        return None
    task = job.partition("_")[2]
    if task and int(task) < len(record.runs):
        return Record(**{**vars(record), "run": record.runs[int(task)], "job": job})
    return record


def recall_all(kinds: tuple[str, ...]) -> list[Record]:
    """Return all records of these kinds, newest first."""
    found = [recall(path.stem) for path in state_folder("jobs").glob("[0-9]*.json")]
    return sorted((r for r in found if r is not None and r.kind in kinds), key=lambda r: -r.submitted)


def log_of(job: str) -> Path:
    """Return the log file of a job.

    Raises: ClusterError when neither limner nor Slurm knows it.
    """
    record = recall(job)
    if record is not None:
        array, _, task = job.partition("_")
        pattern = re.sub(r"%[jA]", array, record.log)
        if "%a" in pattern and not task:
            count = len(record.runs)
            raise ClusterError(f"job {job} is an array of {count} tasks.\nTry: limner cluster logs {job}_0")
        return Path(pattern.replace("%a", task).replace("%%", "%"))
    path = queue.show(job).get("StdOut", "")
    if not path:
        raise ClusterError(f"job {job} has no log file: it was started without sbatch.\nTry: limner cluster status {job}")
    return Path(path)


def run_of(job: str) -> Path:
    """Return the run folder of a training job.

    Raises: ClusterError when the job is not one of limner's runs.
    """
    record = recall(job)
    if record is not None and record.runs and "_" not in job:
        raise ClusterError(f"job {job} is an array of {len(record.runs)} runs.\nTry: limner cluster monitor {job}_0")
    if record is not None and record.run:
        return Path(record.run)
    if record is None:
        command = Path(queue.show(job).get("Command", ""))
        if command.name.endswith(".sbatch") and command.is_absolute():
            return command.parent
    raise ClusterError(f"job {job} is not a training job of limner, so there is no run to watch.\nTry: limner cluster logs {job}")
