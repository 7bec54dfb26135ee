"""`limner data fetch NAME`: a hub data set as parquet files, for machines without internet. Next: `check.py`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from limner.data.hub import checked_name, fetched_folder, load
from limner.errors import DataError

ROWS = 20_000  # of one parquet file


def fetch(name: str, out: Path | None = None, *, subset: str | None = None, revision: str | None = None) -> Path:
    """Bring all splits of a hub data set into a folder, whole or not at all; return the folder.

    Arguments:
        name: such as "ylecun/mnist".
        out: the folder; default data/OWNER--NAME, where the source `hub` looks first.
    Raises: MissingError when it cannot be fetched, DataError when the folder is taken or the disk is full.
    """
    folder = Path(out) if out is not None else fetched_folder(checked_name(name))
    if folder.exists():
        raise DataError(f"{folder}: is there already. Use it (data: {{kind: hub, name: {name}}}), or remove it first.")
    splits = load(checked_name(name), subset, split=None, revision=revision)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
        try:
            for split, rows in splits.items():
                _write(rows, temporary, split)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}.") from error
    return folder


def _write(rows: Any, folder: Path, split: str) -> None:
    """Write a split as SPLIT-00000.parquet, SPLIT-00001.parquet, ..."""
    for number, start in enumerate(range(0, len(rows), ROWS)):
        part = rows.select(range(start, min(start + ROWS, len(rows))))
        part.to_parquet(str(folder / f"{split}-{number:05d}.parquet"))
