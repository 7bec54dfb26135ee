"""A folder of files as the sources see it: names with sizes, texts to read, images to hand to the decoder.

`archives.py` shows zip and tar files through the same three methods. Next: `folder.py`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from limner.data.decoding import MAX_BYTES
from limner.errors import DataError, shorten

MAX_TEXT_BYTES = 2**30  # a table of captions; COCO's is 90 MB
MAX_CAPTION_BYTES = 2**20  # name.txt


class Entry(NamedTuple):
    """A file in a tree: its path with slashes, its size, and what changes when it does (nanoseconds, a checksum)."""

    path: str
    size: int
    state: int


class Tree(Protocol):
    """Files by relative path."""

    refused: dict[str, str]

    def entries(self) -> list[Entry]:
        """Return the regular files sorted by path; members that must not be read are in `refused` with the reason."""
        ...

    def text(self, path: str, limit: int) -> str:
        """Return a file's text. Raises: DataError when it is larger than `limit` bytes or not UTF-8."""
        ...

    def images(self, paths: Iterable[str]) -> Iterator[tuple[str, str | bytes | None, str]]:
        """Yield (path, image, why not) for each of `paths` in a fixed order; an image is a file's place or bytes."""
        ...


class FolderTree:
    """A folder on disk. Hidden files are left out; links are followed to files, and to folders directly inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refused: dict[str, str] = {}

    def entries(self) -> list[Entry]:
        """Return the regular files sorted by path."""
        found: list[Entry] = []
        self._scan(self.root, "", found, depth=0)
        return sorted(found)

    def _scan(self, folder: Path, prefix: str, found: list[Entry], *, depth: int) -> None:
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            self.refused[prefix or str(folder)] = "no permission to list this folder"
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=depth == 0):
                    self._scan(folder / entry.name, path + "/", found, depth=depth + 1)
                    continue
                status = entry.stat()
            except OSError:
                self.refused[path] = "a link to nothing"
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(Entry(path, status.st_size, status.st_mtime_ns))
            elif not stat.S_ISDIR(status.st_mode):
                self.refused[path] = "not a regular file"

    def text(self, path: str, limit: int) -> str:
        """Return a file's text. Raises: DataError when it is larger than `limit` bytes or not UTF-8."""
        file = self.root / path
        if file.stat().st_size > limit:
            raise DataError(f"{file}: {file.stat().st_size} bytes of text; at most {limit} are read.")
        return decoded(file.read_bytes(), str(file))

    def images(self, paths: Iterable[str]) -> Iterator[tuple[str, str | bytes | None, str]]:
        """Yield each path with the file's place."""
        for path in paths:
            yield path, os.path.join(self.root, path), ""


def decoded(data: bytes, where: str) -> str:
    """Return UTF-8 text. Raises: DataError naming `where` and the byte that is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not text in UTF-8: byte 0x{data[error.start]:02x} at {error.start}.") from None


def inside(path: Any, *, where: str) -> str:
    """Return a relative path with slashes, free of `.` parts, as a table of captions names a file.

    Raises: DataError naming `where` when it is no text, absolute, holds `..`, a drive or a null character.
    """
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise DataError(f"{where}: a file's name is needed, this is {shorten(path)}.")
    slashed = path.replace("\\", "/")
    parts = PurePosixPath(slashed).parts
    if slashed.startswith("/") or ".." in parts or (len(slashed) > 1 and slashed[1] == ":"):
        raise DataError(f"{where}: {shorten(path)} leads out of the folder. Name files inside it, relative to it.")
    return str(PurePosixPath(slashed))


def too_large(size: int) -> str:
    """Return the reason why a file of `size` bytes is not read as an image, or ""."""
    return f"too large: {size} bytes, at most {MAX_BYTES} are read" if size > MAX_BYTES else ""
