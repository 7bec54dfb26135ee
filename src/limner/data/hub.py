"""`hub`: data sets of the Hugging Face hub by name, through the library `datasets`; nothing of theirs is ever run.

Without internet they are read from the folder that `limner data fetch NAME` filled on a machine that has it
(`fetch.py`).
Next: `fetch.py`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from limner.data.source import Example, UserPath
from limner.data.tables import Columns, Parquet, Roles
from limner.errors import ConfigError, DataError, MissingError, shorten

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
MEMBER = re.compile(r"[A-Za-z0-9][\w.-]*\Z")
FETCHED = Path("data")


class Hub(Columns):
    """A data set of the hub.

    Arguments:
        name: such as "ylecun/mnist".
        subset: the name of a configuration, where a data set has several.
        split: the split to read; `test_split` names one that becomes the test split.
        revision: a commit or tag, so that the data stay the same.
        streaming: read without keeping a copy of the original files; `limit` then takes the first images.
        folder: where `limner data fetch` put the data set; None is data/OWNER--NAME. What is there is used first.
    """

    kind: Literal["hub"] = "hub"
    name: str = Field(max_length=200)
    subset: str | None = None
    split: str = "train"
    test_split: str | None = None
    revision: str | None = None
    streaming: bool = False
    folder: UserPath | None = None
    _names: tuple[str, ...] | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        return checked_name(name)

    @field_validator("split", "test_split")
    @classmethod
    def _is_split(cls, name: str | None) -> str | None:
        if name is not None and not MEMBER.match(name):
            raise ConfigError(f"hub: a split is a name such as 'train', this is {shorten(name)}.")
        return name

    def local(self) -> Path:
        """Return the folder in which a fetched copy is looked for."""
        return self.folder or fetched_folder(self.name)

    def stamp(self) -> Any:
        """Return the state of the fetched copy, or None: the hub itself is not asked again once the store is there."""
        parts = [part for split in self._splits() for part in self._parts(split)]
        return [[part.name, part.stat().st_size, part.stat().st_mtime_ns] for part in parts] or None

    def class_names(self) -> tuple[str, ...] | None:
        """Return `classes`, or those of the data set's label column."""
        return self.classes or self._names

    def examples(self) -> Iterator[Example]:
        """Yield the rows' examples, those of `test_split` last.

        Raises: MissingError when the hub cannot be reached or the data set is not there, DataError for wrong columns or
            splits.
        """
        for split in self._splits():
            yield from islice(self._of(split), self.limit)

    def _splits(self) -> list[str]:
        return [self.split, *([self.test_split] if self.test_split else [])]

    def _parts(self, split: str) -> list[Path]:
        folder = self.local()
        return sorted(folder.glob(f"{split}-*.parquet")) if folder.is_dir() else []

    def _of(self, split: str) -> Iterator[Example]:
        where = f"{self.name}, split {split}"
        roles: Roles | None = None
        for number, row in enumerate(self._rows(split), start=1):
            roles = roles or Roles(self, row, where=where)
            image = row[roles.image]
            if isinstance(image, dict) and image.get("bytes") is None and image.get("path"):
                row = {**row, roles.image: _bytes_at(str(image["path"]))}
            example = roles.example(row, name=f"{self.name}/{split}, row {number}", folder=None)
            example.test = split == self.test_split
            yield example
        if roles is None:
            raise DataError(f"{where}: there is not one row in it.")

    def _rows(self, split: str) -> Iterator[dict[str, Any]]:
        parts = self._parts(split)
        if parts:
            for part in parts:
                table = Parquet.model_validate({"path": part, "label": self.label})
                self._names = self._names or table.class_names()
                yield from table.rows()
            return
        loaded = load(self.name, self.subset, split=split, revision=self.revision, streaming=self.streaming)
        features = loaded.features or {}
        for column, feature in features.items():
            if type(feature).__name__ == "Image":  # left encoded: our own decoder reads it
                loaded = loaded.cast_column(column, type(feature)(decode=False))
        names = getattr(features.get(self.label), "names", None) if self.label else None
        self._names = tuple(map(str, names)) if names else None
        yield from loaded


def checked_name(name: str) -> str:
    """Return a data set's name. Raises: ConfigError when it is none."""
    if not NAME.match(name) or ".." in name:
        raise ConfigError(f"hub: a data set's name is OWNER/NAME such as ylecun/mnist, this is {shorten(name)}.")
    return name


def fetched_folder(name: str) -> Path:
    """Return where a data set is put by `limner data fetch`."""
    return FETCHED / name.replace("/", "--")


def load(name: str, subset: str | None, *, split: str | None, revision: str | None, streaming: bool = False) -> Any:
    """Return the data set as the library `datasets` gives it; no code of the data set is run.

    Raises: MissingError without the library, the internet or the data set; DataError for a wrong subset or split.
    """
    try:
        import datasets
        from datasets.exceptions import DatasetNotFoundError
    except ImportError:
        raise MissingError("hub: the library datasets is missing: pip install 'limner[hub]'") from None
    advice = (
        f"On a machine with internet: limner data fetch {name}; then put its folder here as {fetched_folder(name)}.\n"
        "A private data set also needs: huggingface-cli login."
    )
    try:
        return datasets.load_dataset(name, subset, split=split, revision=revision, streaming=streaming)
    except DatasetNotFoundError as error:
        raise MissingError(f"{name}: not on the hub, or not yours to read: {_first_line(error)}\n{advice}") from None
    except ValueError as error:
        raise DataError(f"{name}: {_first_line(error)}") from None
    except (OSError, RuntimeError) as error:  # also what the library raises for connections; its own are RuntimeErrors
        raise MissingError(f"{name}: the hub cannot be reached: {_first_line(error)}\n{advice}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


def _bytes_at(path: str) -> bytes | None:
    """The bytes of an image that the library left on disk; None when it is no regular file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        return Path(path).read_bytes()
    except OSError:
        return None
