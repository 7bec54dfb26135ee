"""Archives read member by member: good ones give what a folder gives, hostile ones cost nothing and reach nothing."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folder, encoded, little_memory

from limner.data import SOURCES, BadFilesError, Store
from limner.errors import DataError

GOOD = [(f"class{i % 2}/{i}.png", encoded(i)) for i in range(4)]


def open_archive(path: Path, cache: Path, **more: object) -> Store:
    return SOURCES.parse({"kind": "folder", "path": str(path), "size": 16, **more}).open(cache)


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if isinstance(member, str):
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if data else None)
    return path


def make_zip(path: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, cache: Path, form: str) -> None:
    root = class_folder(tmp_path / "p", 80)
    (root / "class0" / "00000.jpg").write_bytes(b"broken")
    files = [(str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*.jpg"))]
    path = tmp_path / f"p.{form}"
    make_zip(path, files) if form == "zip" else make_tar(path, files, "w:gz" if form == "tar.gz" else "w")
    folder, archive = open_archive(root, cache, max_bad=0.02), open_archive(path, cache, max_bad=0.02)
    assert archive.bad == folder.bad and [bad.path for bad in archive.bad] == ["class0/00000.jpg"]
    assert np.array_equal(folder.images, archive.images) and folder.names == archive.names
    assert np.array_equal(folder.labels, archive.labels)


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_captions_inside_an_archive_are_read(tmp_path: Path, cache: Path, form: str) -> None:
    rows = b'{"file_name": "a.png", "text": "an A"}\n{"file_name": "b.png", "captions": ["B", "bee"]}\n'
    files = [("x/b.png", encoded(1)), ("x/a.png", encoded(2)), ("x/metadata.jsonl", rows)]
    path = tmp_path / f"p.{form}"
    make_zip(path, files) if form == "zip" else make_tar(path, files, "w:gz")
    store = open_archive(path, cache)
    assert {name: store.captions_of(i) for i, name in enumerate(store.names)} == {
        "x/a.png": ["an A"],
        "x/b.png": ["B", "bee"],
    }


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


def raw_tar(path: Path, *headers: bytes, tail: bytes = b"") -> Path:
    path.write_bytes(b"".join(headers) + tail + bytes(1024))
    return path


def claiming(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    return info(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def zip_link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return member


def patched_zip(path: Path, change: Callable[[bytearray, int], None]) -> Path:
    """A zip whose first central directory entry (at the given offset) is changed."""
    data = bytearray(make_zip(path, GOOD).read_bytes())
    change(data, data.index(b"PK\x01\x02"))
    path.write_bytes(data)
    return path


def put(data: bytearray, at: int, form: str, value: int) -> None:
    struct.pack_into(form, data, at, value)


PNG = encoded(9)
SECRET = "/etc/hostname"
TARS: dict[str, Callable[[Path], Path]] = {
    "absolute": lambda p: make_tar(p, [*GOOD, ("/class0/x.png", PNG)]),
    "dots": lambda p: make_tar(p, [*GOOD, ("../class0/x.png", PNG)]),
    "dots inside": lambda p: make_tar(p, [*GOOD, ("class0/../../x.png", PNG)]),
    "backslashes": lambda p: make_tar(p, [*GOOD, ("class0\\..\\..\\x.png", PNG)]),
    "drive": lambda p: make_tar(p, [*GOOD, ("C:/x.png", PNG)]),
    "symbolic link": lambda p: make_tar(p, [*GOOD, (info("class0/x.png", tarfile.SYMTYPE, SECRET), b"")]),
    "hard link": lambda p: make_tar(p, [*GOOD, (info("class0/x.png", tarfile.LNKTYPE, "class0/0.png"), b"")]),
    "device": lambda p: make_tar(p, [*GOOD, (info("class0/x.png", tarfile.CHRTYPE), b"")]),
    "block device": lambda p: make_tar(p, [*GOOD, (info("class0/x.png", tarfile.BLKTYPE), b"")]),
    "pipe": lambda p: make_tar(p, [*GOOD, (info("class0/x.png", tarfile.FIFOTYPE), b"")]),
    "twice": lambda p: make_tar(p, [*GOOD, ("class0/0.png", PNG)]),
    "link then file": lambda p: make_tar(p, [*GOOD, (info("d", tarfile.SYMTYPE, "/tmp"), b""), ("d/../../x.png", PNG)]),
    "claims a terabyte": lambda p: raw_tar(p, claiming("class0/x.png", 2**40)),
    "claims more than all": lambda p: raw_tar(p, claiming("class0/x.png", 2**62)),
    "long name of a gigabyte": lambda p: raw_tar(p, claiming("@LongLink", 2**30, tarfile.GNUTYPE_LONGNAME)),
    "pax header of a gigabyte": lambda p: raw_tar(p, claiming("x", 2**30, tarfile.XHDTYPE)),
    "negative pax size": lambda p: make_tar_pax(p, "-512"),
    "absurd pax size": lambda p: make_tar_pax(p, "9" * 40),
    "sparse": lambda p: raw_tar(p, sparse_header()),
    "cut": lambda p: raw_tar(p, make_tar(p, GOOD).read_bytes()[:700]),
    "no tar": lambda p: raw_tar(p, b"hello" * 300),
    "gzip of nothing": lambda p: zipped(p, b""),
    "gzip bomb": lambda p: zipped(p, claiming("class0/x.png", 2**33) + bytes(50 * 2**20)),
    "gzip pax bomb": lambda p: zipped(p, claiming("x", 2**26, tarfile.XHDTYPE) + bytes(2**26 + 1024)),
    "gzip cut": lambda p: zipped(p, make_tar(p, GOOD).read_bytes(), cut=100),
}
ZIPS: dict[str, Callable[[Path], Path]] = {
    "absolute": lambda p: make_zip(p, [*GOOD, ("/class0/x.png", PNG)]),
    "dots": lambda p: make_zip(p, [*GOOD, ("class0/../../x.png", PNG)]),
    "drive": lambda p: make_zip(p, [*GOOD, ("C:\\x.png", PNG)]),
    "symbolic link": lambda p: make_zip(p, [*GOOD, (zip_link("class0/x.png"), SECRET.encode())]),
    "bomb": lambda p: make_zip(p, [*GOOD, ("class0/x.png", bytes(30 * 2**20))]),
    "claims 4 GB": lambda p: patched_zip(p, lambda d, at: put(d, at + 24, "<I", 2**32 - 2)),
    "claims more than it has": lambda p: patched_zip(p, lambda d, at: put(d, at + 24, "<I", 5_000)),
    "wrong checksum": lambda p: patched_zip(p, lambda d, at: put(d, at + 16, "<I", 1)),
    "encrypted": lambda p: patched_zip(p, lambda d, at: put(d, at + 8, "<H", 1)),
    "odd method": lambda p: patched_zip(p, lambda d, at: put(d, at + 10, "<H", 14)),
    "offset outside": lambda p: patched_zip(p, lambda d, at: put(d, at + 42, "<I", 2**31)),
    "cut": lambda p: (p.write_bytes(make_zip(p, GOOD).read_bytes()[:-60]), p)[1],
    "head only": lambda p: (p.write_bytes(b"PK\x03\x04"), p)[1],
}


def make_tar_pax(path: Path, size: str) -> Path:
    record = f"size={size}\n"
    record = f"{len(record) + 3} {record}" if len(record) + 3 < 100 else record
    body = record.encode().ljust(512, b"\0")
    return raw_tar(path, claiming("x", len(record), tarfile.XHDTYPE), body, claiming("class0/x.png", 10), bytes(512))


def sparse_header() -> bytes:
    block = bytearray(claiming("class0/x.png", 0, tarfile.GNUTYPE_SPARSE))
    block[483:495] = b"77777777777\0"  # its real size: 8 GB of holes
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def zipped(path: Path, data: bytes, cut: int = 0) -> Path:
    packed = gzip.compress(data, 6)
    path.write_bytes(packed[: len(packed) - cut])
    return path


@pytest.mark.parametrize(("form", "what"), [("tar", what) for what in TARS] + [("zip", what) for what in ZIPS])
def test_hostile_archives_are_one_clear_error_at_once(tmp_path: Path, cache: Path, form: str, what: str) -> None:
    path = (TARS if form == "tar" else ZIPS)[what](tmp_path / f"p.{form}")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    started = time.monotonic()
    with little_memory(), pytest.raises(DataError) as caught:
        open_archive(path, cache)
    assert time.monotonic() - started < 2
    assert len(str(caught.value).splitlines()) <= 10
    if isinstance(caught.value, BadFilesError) and "not one image" not in str(caught.value):
        assert len(caught.value.bad) <= 2
        store = open_archive(path, cache, max_bad=1)
        assert len(store) >= 3  # the good ones stay usable, and nothing else came in
    assert {file for file in tmp_path.rglob("*") if cache not in [file, *file.parents]} == set(before)


@pytest.mark.parametrize("what", ["absolute", "symbolic link", "device", "pipe", "hard link", "dots"])
def test_shards_with_hostile_members_leave_exactly_these_out(tmp_path: Path, cache: Path, what: str) -> None:
    TARS[what](tmp_path / "s.tar")
    source = SOURCES.parse({"kind": "webdataset", "path": str(tmp_path / "s.tar"), "size": 16, "max_bad": 0.5, "captions": ["x"]})
    store = source.open(cache)
    assert len(store) == 4 and len(store.bad) == 1


def shard(path: Path, keys: range, ending: str = "png") -> Path:
    members: list[tuple[tarfile.TarInfo | str, bytes]] = []
    for key in keys:
        members += [(f"{key:05}.{ending}", encoded(key)), (f"{key:05}.txt", f"caption {key}".encode())]
        members += [(f"{key:05}.cls", str(key % 3).encode()), (f"{key:05}.json", b'{"style": "s%d"}' % (key % 2))]
    return make_tar(path, members)


@pytest.mark.parametrize("how", ["folder", "braces", "star"])
def test_shards_are_read_in_order(tmp_path: Path, cache: Path, how: str) -> None:
    for n in range(3):
        shard(tmp_path / f"s-{n:03}.tar", range(10 * n, 10 * n + 10))
    path = {"folder": tmp_path, "braces": tmp_path / "s-{000..002}.tar", "star": tmp_path / "s-*.tar"}[how]
    source = {"kind": "webdataset", "path": str(path), "size": 16, "classes": ["a", "b", "c"]}
    store = SOURCES.parse(source).open(cache)
    assert [store.captions_of(i) for i in range(30)] == [[f"caption {i}"] for i in range(30)]
    assert store.labels.tolist() == [i % 3 for i in range(30)] and store.attributes[1] == {"style": "s1"}
    assert len(SOURCES.parse({**source, "limit": 12}).open(cache)) == 12


def test_shards_with_gaps_list_them(tmp_path: Path, cache: Path) -> None:
    parts = {"1.txt": b"x", "2.png": b"", "2.txt": b"x", "3.png": PNG, "3.txt": b"\xff", "4.png": PNG, "4.json": b"{"}
    path = make_tar(tmp_path / "s.tar", [*parts.items(), ("5.png", PNG), ("5.txt", b"ok")])
    store = SOURCES.parse({"kind": "webdataset", "path": str(path), "size": 16, "max_bad": 1}).open(cache)
    assert len(store) == 1 and store.captions_of(0) == ["ok"]
    assert [bad.path for bad in store.bad] == ["s.tar/1", "s.tar/2.png", "s.tar/3.png", "s.tar/4.png"]
    with pytest.raises(DataError, match="no such shard"):
        SOURCES.parse({"kind": "webdataset", "path": str(tmp_path / "s-{0..3}.tar")}).open(cache)
