"""The store: decoded images in one memory-mapped file, with labels, captions and splits beside it; read-only.

    <kind>-<hash>/  images.u8 (raw [N, C, H, W])  labels.npy  groups.npy  tests.npy  captions.json  names.json
                    attributes.jsonl (if there are any)  meta.json (shape, classes, bad files, sizes, SHA-256; sealed)

A store is whole or absent (`build.py` writes it aside and renames it); what is damaged is noticed here, before its use.
Next: `build.py`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from limner.data.captions import CaptionTable
from limner.data.splits import SPLITS, assign
from limner.errors import DataError, nearest

FORMAT = 1
VERIFIED_BYTES = 64 * 2**20  # files up to this size are hashed whenever a store is opened; larger ones by `verify`


class BadFile(NamedTuple):
    """A file that was left out, and why."""

    path: str
    reason: str


class BadFilesError(DataError):
    """More unreadable files than `max_bad` allows; `bad` lists them all."""

    def __init__(self, message: str, bad: list[BadFile]) -> None:
        super().__init__(message)
        self.bad = bad


class DamagedError(Exception):
    """A store that is not what was written; caught by `build.py`, which builds it again."""


class Store:
    """Images with labels, captions and splits, as one source's config describes them.

    Arguments:
        folder: the store's folder, which is whole (see `Store.read`).
        meta: the contents of its meta.json.
        judge, test: shares of the split.
        fingerprint: SHA-256 over config and content.

    Attributes:
        images: [N, C, H, W] uint8, memory-mapped.
        labels: [N] int64, -1 where there is none.
        class_names: the classes' names by label; may be empty.
        captions: the captions of every image and every class.
        bad: exactly the files that were left out, with reasons.
        notices: what happened on opening that a person should know (a damaged store was rebuilt, ...).
    """

    def __init__(self, folder: Path, meta: dict[str, Any], *, judge: float, test: float, fingerprint: str) -> None:
        self.folder = folder
        self.meta = meta
        self.fingerprint = fingerprint
        self.notices: list[str] = []
        self._judge, self._test = judge, test
        shape = (meta["count"], *meta["shape"])
        self.images = np.memmap(folder / "images.u8", np.uint8, mode="r", shape=shape)
        self.labels: np.ndarray = np.load(folder / "labels.npy", allow_pickle=False)
        self.class_names: tuple[str, ...] = tuple(meta["class_names"])
        table = json.loads((folder / "captions.json").read_text())
        group = np.load(folder / "groups.npy", allow_pickle=False)
        self.captions = CaptionTable(table["groups"], group, table["by_class"])
        self.bad = [BadFile(*entry) for entry in meta["bad"]]

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes of a loader get the folder, not the images."""
        return (_restored, (self.folder, self.meta, self._judge, self._test, self.fingerprint))

    @staticmethod
    def read(folder: Path, *, judge: float, test: float, fingerprint_of: dict[str, Any], verify: bool = False) -> Store:
        """Return the store in `folder`.

        Arguments:
            fingerprint_of: the config that the fingerprint covers beside the content.
            verify: hash every file, not only the small ones.
        Raises: FileNotFoundError when there is none, DamagedError when it is not what was written.
        """
        meta = read_meta(folder)
        for name, entry in meta["files"].items():
            path = folder / name
            if not path.is_file():
                raise DamagedError(f"{name} is missing")
            if path.stat().st_size != entry["size"]:
                raise DamagedError(f"{name} has {path.stat().st_size} bytes instead of {entry['size']}")
            if (verify or entry["size"] <= VERIFIED_BYTES) and sha256_of(path) != entry["sha256"]:
                raise DamagedError(f"{name} has changed")
        content = {name: entry["sha256"] for name, entry in sorted(meta["files"].items())}
        whole = canonical([fingerprint_of, content, meta["shape"], meta["class_names"]])
        return Store(folder, meta, judge=judge, test=test, fingerprint=hashlib.sha256(whole).hexdigest())

    def split(self, name: Literal["train", "judge", "test"]) -> np.ndarray:
        """Return the sorted indices [n] of a split: disjoint, the same share of each class, the same for ever."""
        if name not in SPLITS:
            raise DataError(f"split: there is no '{name}'.{nearest(name, SPLITS)} Allowed: {', '.join(SPLITS)}.")
        return np.flatnonzero(self._places == SPLITS.index(name))

    @cached_property
    def _places(self) -> np.ndarray:
        preset = np.load(self.folder / "tests.npy", allow_pickle=False)
        return assign(self.labels, preset, judge=self._judge, test=self._test)

    def captions_of(self, i: int) -> list[str]:
        """Return the captions of image `i`; there is at least one."""
        return self.captions.of(i)

    def all_captions(self) -> list[str]:
        """Return every caption of every image and class once, sorted."""
        return list(self.captions.distinct)

    def class_captions(self, label: int) -> list[str]:
        """Return the captions that the templates make of a class; empty where no template is about classes alone."""
        if not 0 <= label < max(len(self.class_names), 1):
            raise DataError(f"class {label}: there are {len(self.class_names)} classes, 0 to {len(self.class_names) - 1}.")
        return list(self.captions.by_class[label]) if self.captions.by_class else []

    def label_of_prompt(self, prompt: str) -> int | None:
        """Return the class whose caption `prompt` is, case and white space aside; None when it is none or several's."""
        return self.captions.label_of(prompt)

    @cached_property
    def names(self) -> list[str]:
        """What messages call each image: its path inside the source."""
        return json.loads((self.folder / "names.json").read_text())

    @cached_property
    def attributes(self) -> list[dict[str, Any]]:
        """The attributes of each image; empty mappings where a source has none."""
        path = self.folder / "attributes.jsonl"
        if "attributes.jsonl" not in self.meta["files"]:
            return [{} for _ in range(len(self))]
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def _restored(folder: Path, meta: dict[str, Any], judge: float, test: float, fingerprint: str) -> Store:
    return Store(folder, meta, judge=judge, test=test, fingerprint=fingerprint)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the contents of a store's meta.json.

    Raises: FileNotFoundError when it is missing, DamagedError when its seal does not fit or its format is another.
    """
    text = (folder / "meta.json").read_bytes()
    try:
        meta = json.loads(text)
        seal = meta.pop("seal")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedError("meta.json is damaged") from error
    if seal != hashlib.sha256(canonical(meta)).hexdigest():
        raise DamagedError("meta.json has changed")
    if meta["format"] != FORMAT:
        raise DamagedError(f"format {meta['format']} instead of {FORMAT}")
    return meta


def sealed(meta: dict[str, Any]) -> bytes:
    """Return the bytes of meta.json: `meta` and the SHA-256 of its canonical form."""
    seal = hashlib.sha256(canonical(meta)).hexdigest()
    return json.dumps({**meta, "seal": seal}, indent=1).encode()


def canonical(value: Any) -> bytes:
    """Return the one JSON text of `value`, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
