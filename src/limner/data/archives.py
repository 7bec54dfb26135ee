"""Zip and tar files read member by member, never unpacked; a hostile one is refused before it costs anything.

Refused members (absolute names, `..`, links, devices, sparse files, encryption, a name twice, more than an image's
size) are listed with the reason. An archive that is itself a bomb or damaged is one error. Next: `shards.py`.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from limner.data.decoding import MAX_BYTES
from limner.data.tree import MAX_CAPTION_BYTES, MAX_TEXT_BYTES, Entry, Tree, decoded, inside, too_large
from limner.errors import DataError

MAX_RATIO = 200  # all members together may be this much larger than the archive: images hardly shrink
FREE = 64 * 2**20  # bytes that any archive may unpack to
FREE_MEMBER = 16 * 2**20  # bytes that any member may unpack to
MAX_HEADER = 2**20  # bytes of one tar header with its extensions
DEFLATE = 1040  # deflate cannot shrink further than 1032 times
TEXT_NAMES = ("metadata.jsonl",)

Damage = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError, NotImplementedError)


def open_archive(path: Path) -> Tree:
    """Return the files in a zip, tar or gzipped tar file, told by its first bytes.

    Raises: DataError when it is none of these, damaged, or a bomb.
    """
    return ZipTree(path) if is_zip(path) else TarTree(path)


def is_zip(path: Path) -> bool:
    """Return whether a file begins as zip files do."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


class ZipTree:
    """The files in a zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: dict[str, str] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                self._take(archive.infolist())
        except Damage as error:
            raise DataError(f"{path}: not a whole zip file: {error}. Make or fetch it again.") from None

    def _take(self, members: list[zipfile.ZipInfo]) -> None:
        total, size = sum(member.file_size for member in members), self.path.stat().st_size
        if total > FREE + MAX_RATIO * size:
            raise DataError(f"{self.path}: {size} bytes that unpack to {total}: a bomb, not pictures.")
        for member in members:
            if member.is_dir():
                continue
            name, reason = safe_name(member.filename, self._members)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if not reason and kind not in (0, stat.S_IFREG):
                reason = "a link or device, not a file"
            elif not reason and member.flag_bits & 1:
                reason = "encrypted"
            elif not reason and member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                reason = f"compression method {member.compress_type} is not read: store or deflate it"
            elif not reason and member.file_size > DEFLATE * max(member.compress_size, 1):
                reason = f"claims {member.file_size} bytes, which {member.compress_size} cannot hold"
            elif not reason and member.file_size > FREE_MEMBER + MAX_RATIO * member.compress_size:
                reason = f"too large: {member.compress_size} bytes that unpack to {member.file_size}"
            if reason:
                self.refused[name] = reason
            else:
                self._members[name] = member

    def entries(self) -> list[Entry]:
        """Return the files sorted by path."""
        return sorted(Entry(name, member.file_size, member.CRC) for name, member in self._members.items())

    def text(self, path: str, limit: int) -> str:
        """Return a file's text. Raises: DataError when it is larger than `limit` bytes, damaged or not UTF-8."""
        with zipfile.ZipFile(self.path) as archive:
            data, reason = self._read(archive, path, limit)
        if data is None:
            raise DataError(f"{self.path}/{path}: {reason}.")
        return decoded(data, f"{self.path}/{path}")

    def images(self, paths: Iterable[str]) -> Iterator[tuple[str, str | bytes | None, str]]:
        """Yield each path with its bytes, or with the reason."""
        with zipfile.ZipFile(self.path) as archive:
            for path in paths:
                data, reason = self._read(archive, path, MAX_BYTES)
                yield path, data, reason

    def _read(self, archive: zipfile.ZipFile, path: str, limit: int) -> tuple[bytes | None, str]:
        member = self._members[path]
        if member.file_size > limit:
            return None, f"too large: {member.file_size} bytes, at most {limit} are read"
        try:
            with archive.open(member) as file:
                data = file.read()  # zipfile stops at file_size and compares the checksum
            return (data, "") if len(data) == member.file_size else (None, "damaged: shorter than it claims")
        except (*Damage, RuntimeError, OSError) as error:
            return None, f"damaged: {error}"


class TarTree:
    """The files in a tar file, gzipped or not: one pass for the texts and one for the images, in its own order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}
        self._texts: dict[str, str] = {}
        for member in members_of(path):
            if member.reason:
                self.refused[member.name] = member.reason
                continue
            self._entries[member.name] = Entry(member.name, member.size, 0)
            caption = member.name.lower().endswith(".txt") and member.size <= MAX_CAPTION_BYTES
            if caption or (member.name.split("/")[-1] in TEXT_NAMES and member.size <= MAX_TEXT_BYTES):
                self._texts[member.name] = member.read().decode("utf-8-sig", errors="replace")

    def entries(self) -> list[Entry]:
        """Return the files sorted by path."""
        return sorted(self._entries.values())

    def text(self, path: str, limit: int) -> str:
        """Return a file's text. Raises: DataError when it is too large."""
        if path not in self._texts or self._entries[path].size > limit:
            raise DataError(f"{self.path}/{path}: {self._entries[path].size} bytes of text; at most {limit} are read.")
        return self._texts[path]

    def images(self, paths: Iterable[str]) -> Iterator[tuple[str, str | bytes | None, str]]:
        """Yield (path, bytes, reason) in the order of the archive."""
        wanted = set(paths)
        for member in members_of(self.path):
            if not member.reason and member.name in wanted:
                wanted.discard(member.name)
                reason = too_large(member.size)
                yield member.name, None if reason else member.read(), reason


class Member(NamedTuple):
    """A member of a tar file: `read()` gives its bytes and must be called before the next member is taken."""

    name: str
    size: int
    reason: str
    read: Callable[[], bytes]


def members_of(path: Path) -> Iterator[Member]:
    """Yield the members of a tar file in their order, directories left out; `reason` says why one must not be read.

    Raises: DataError when the file is no tar file, damaged, or a bomb.
    """
    size = path.stat().st_size
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if gzipped else raw
        bounded = _Bounded(file, None if gzipped else size)
        seen: dict[str, bool] = {}
        try:
            with closing(tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r:", errorlevel=1)) as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                    if member.isdir():
                        continue
                    name, reason = safe_name(member.name, seen)
                    if not reason and (not member.isreg() or member.issparse()):
                        reason = "a link, device or sparse file, not a plain one"
                    if gzipped and (member.size > MAX_TEXT_BYTES or member.offset_data > FREE + MAX_RATIO * size):
                        raise DataError(f"{path}: unpacks to far more than its {size} bytes: a bomb, not pictures.")
                    if not gzipped and not reason and member.offset_data + member.size > size:
                        reason = f"claims {member.size} bytes, more than the archive has"
                        yield Member(name, member.size, reason, bytes)
                        return
                    if not reason:
                        seen[name] = True
                    yield Member(name, member.size, reason, partial(_content, archive, member, bounded))
        except (*Damage, OverflowError) as error:
            raise DataError(f"{path}: not a whole tar file: {str(error)[:100] or type(error).__name__}.") from None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, bounded: _Bounded) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    bounded.limit = member.size
    try:
        data = file.read()
    finally:
        bounded.limit = MAX_HEADER
    if len(data) < member.size:
        raise tarfile.ReadError(f"it ends inside {member.name}")
    return data


def safe_name(name: str, seen: Iterable[str]) -> tuple[str, str]:
    """Return a member's path with slashes, and the reason why it must not be read or ""."""
    try:
        path = inside(name, where="")
    except DataError:
        return name, "its name leads out of the archive"
    return (path, "a second member of this name") if path in seen else (path, "")


class _Bounded(io.RawIOBase):
    """A file that refuses to read more than `limit` bytes at once: tarfile allocates whatever a header claims."""

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        super().__init__()
        self.file, self.size, self.limit = file, size, MAX_HEADER

    def read(self, num: int = -1) -> bytes:
        """Read `num` bytes. Raises: tarfile.ReadError when they are more than `limit`."""
        if num < 0 or num > max(self.limit, tarfile.RECORDSIZE):
            raise tarfile.ReadError(f"a header claims {num} bytes")
        return self.file.read(num)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to `offset`. Raises: tarfile.ReadError when it is behind the end of a plain file."""
        if self.size is not None and whence == 0 and offset > self.size:
            raise tarfile.ReadError("it ends inside a member")
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Return where it is."""
        return self.file.tell()

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True
