"""`webdataset`: tar files in which neighbours of one name are one example: 0001.jpg, 0001.txt, 0001.json, 0001.cls.

Read from the first byte to the last, never unpacked (`archives.py`). Next: `shapes.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from limner.data.archives import Member, members_of
from limner.data.folder import label_of, texts_of
from limner.data.source import Example, Size, Source
from limner.data.tree import MAX_CAPTION_BYTES, too_large
from limner.errors import ConfigError, DataError

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
TEXT_ENDINGS = ("txt", "caption", "text")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 100_000


class WebDataset(Source):
    """Examples in tar shards.

    Arguments:
        path: a tar file, a folder of them, or a pattern such as `shards/{00000..00099}.tar` or `shards/*.tar`.
        classes: the classes' names by the number in `.cls`; default those numbers.
    """

    kind: Literal["webdataset"] = "webdataset"
    size: Size = 64
    path: str
    classes: tuple[str, ...] = ()

    def shards(self) -> list[Path]:
        """Return the tar files in order. Raises: DataError when one is missing or there is none."""
        path = Path(self.path).expanduser()
        if braces := _BRACES.search(str(path)):
            first, last = int(braces[1]), int(braces[2])
            if not 0 <= last - first < MAX_SHARDS:
                raise ConfigError(f"webdataset: {self.path}: from {first} to {last} are not 1 to {MAX_SHARDS} shards.")
            width = len(braces[1])
            names = [f"{number:0{width}d}".join(_BRACES.split(str(path), 1)[::3]) for number in range(first, last + 1)]
            shards = [Path(name) for name in names]
        elif path.is_dir():
            shards = sorted(file for file in path.iterdir() if file.name.endswith((".tar", ".tar.gz", ".tgz")))
        elif "*" in path.name:
            shards = sorted(path.parent.glob(path.name))
        else:
            shards = [path]
        missing = [shard for shard in shards if not shard.is_file()]
        if missing or not shards:
            raise DataError(f"{missing[0] if missing else path}: there is no such shard (a tar file).")
        return shards

    def stamp(self) -> Any:
        """Return every shard's path, size and time."""
        return [[str(s.resolve()), s.stat().st_size, s.stat().st_mtime_ns] for s in self.shards()]

    def class_names(self) -> tuple[str, ...] | None:
        """Return `classes`, or None."""
        return self.classes or None

    def examples(self) -> Iterator[Example]:
        """Yield the examples in the order of the shards; `limit` takes the first."""
        yield from islice(self._all(), self.limit)

    def _all(self) -> Iterator[Example]:
        for shard in self.shards():
            parts: dict[str, bytes | str] = {}
            current = ""
            for member in members_of(shard):
                key, ending = split_name(member.name)
                if member.reason:
                    yield Example(None, f"{shard.name}/{member.name}", bad=member.reason)
                    continue
                if key != current and parts:
                    yield _example(shard.name, current, parts)
                    parts = {}
                current = key
                parts[ending] = _part(member, ending)
            if parts:
                yield _example(shard.name, current, parts)


def split_name(name: str) -> tuple[str, str]:
    """Return a member's key and ending: "a/0001.seg.png" is ("a/0001", "seg.png")."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending.lower()


def _part(member: Member, ending: str) -> bytes | str:
    """The bytes of a part, or why they are not read; parts of other kinds are left unread."""
    if ending in IMAGE_ENDINGS:
        return too_large(member.size) or member.read()
    if ending in (*TEXT_ENDINGS, "json", "cls"):
        return member.read() if member.size <= MAX_CAPTION_BYTES else f"{ending} of {member.size} bytes"
    return b""


def _example(shard: str, key: str, parts: dict[str, bytes | str]) -> Example:
    name = f"{shard}/{key}"
    ending = next((ending for ending in IMAGE_ENDINGS if ending in parts), None)
    example = Example(None, name if ending is None else f"{name}.{ending}")
    reasons = [part for part in parts.values() if isinstance(part, str)]
    if ending is None or reasons:
        example.bad = reasons[0] if reasons else f"no image among {', '.join(sorted(parts))}"
        return example
    try:
        texts, attributes, label = _described(parts, name)
    except (DataError, UnicodeDecodeError) as error:
        example.bad = str(error)[:160]
        return example
    image = parts[ending]
    assert isinstance(image, bytes)
    example.image, example.texts, example.attributes, example.label = image, texts, attributes, label
    example.bad = "" if image else "empty file"
    if not image:
        example.image = None
    return example


def _described(parts: dict[str, bytes | str], name: str) -> tuple[tuple[str, ...], dict[str, Any], int | str | None]:
    """Texts, attributes and label of an example, from its txt, json and cls parts."""
    texts: list[str] = []
    for ending in TEXT_ENDINGS:
        part = parts.get(ending, b"")
        assert isinstance(part, bytes)
        texts += [line.strip() for line in part.decode("utf-8").splitlines() if line.strip()]
    row: Any = {}
    if described := parts.get("json"):
        try:
            row = json.loads(described)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}.json: not JSON: {str(error)[:80]}") from None
        row = row if isinstance(row, dict) else {}
    texts += texts_of(row, where=f"{name}.json")
    label = label_of(row.pop("label", None), where=f"{name}.json")
    if numbered := parts.get("cls"):
        assert isinstance(numbered, bytes)
        text = numbered.decode("utf-8").strip()
        label = int(text) if text.isdecimal() and len(text) < 10 else text
    return tuple(dict.fromkeys(texts)), row, label
