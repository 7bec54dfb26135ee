"""Files and folders that are whole or absent: written aside, flushed to disk, then renamed into place; and a run's metrics, read back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from limner.errors import CheckpointError

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)$")


@contextlib.contextmanager
def publish(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write into; when the block ends well, it becomes `folder` at once.

    Every file and the folder are flushed (fsync) before the rename, and the parent after it. An existing `folder` stays until its
    successor is complete. If the block fails, nothing is left of it.
    Raises: CheckpointError when the disk refuses (full, read-only).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                _sync(path)
        _sync(temporary)
        old = None
        if folder.exists():
            old = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.old"
            folder.rename(old)
        temporary.rename(folder)
        _sync(folder.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{folder}: cannot be written: {reason}. What was there before is untouched; make room or choose another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises: CheckpointError when the disk refuses.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        temporary.rename(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(parent: Path) -> None:
    """Delete what writes that were killed left behind in a folder (hidden *.tmp and *.old)."""
    for path in sorted(parent.glob(".*")):
        ours = _LEFTOVER.match(path.name)
        if ours and ours[2] == "old" and not (parent / ours[1]).exists():
            path.rename(parent / ours[1])  # killed between the two renames
        elif ours:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run's metrics.jsonl that are whole; what a kill left half-written is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            yield value
