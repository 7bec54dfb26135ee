"""Folders of pictures: layouts, captions, and exactly the files that are left out."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folder, encoded

from limner.data import SOURCES, BadFilesError, Store
from limner.errors import DataError


def open_folder(root: Path, cache: Path, **more: object) -> Store:
    return SOURCES.parse({"kind": "folder", "path": str(root), "size": 16, **more}).open(cache, processes=2)


def put(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(seed))


def huge_png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


def spoil(folder: Path) -> list[Path]:
    """Ten ways, five files each."""
    png, jpeg = encoded(1, side=64), encoded(1, side=64, form="JPEG")
    ways = {
        "empty.jpg": b"",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "flipped.png": png[:-40] + bytes([png[-40] ^ 0xFF]) + png[-39:],
        "text.jpg": b"<html>404</html>",
        "zeros.jpeg": bytes(5000),
        "random.webp": np.random.default_rng(0).bytes(4000),
        "huge.png": huge_png(),
        "other.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
    }
    bad = []
    for i in range(5):
        for name, data in ways.items():
            bad.append(folder / f"class{i % 4}" / f"bad{i}-{name}")
            bad[-1].write_bytes(data)
        bad.append(folder / f"class{i % 4}" / f"bad{i}-link.jpg")
        os.symlink("nowhere.jpg", bad[-1])
    return bad


def test_fifty_bad_files_in_ten_ways_are_listed_exactly(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 950)
    bad = spoil(root)
    started = time.monotonic()
    with pytest.raises(BadFilesError, match="50 of 1000 files") as caught:
        open_folder(root, cache)
    assert len(str(caught.value).splitlines()) <= 10
    store = open_folder(root, cache, max_bad=0.05)
    assert [path for path, _ in store.bad] == sorted(str(path.relative_to(root)) for path in bad)
    assert caught.value.bad == store.bad
    assert len(store) == 950 and np.bincount(store.labels).sum() == 950
    reasons = {path.rsplit("-")[-1]: reason for path, reason in store.bad}
    assert reasons["empty.jpg"] == "empty file" and "too large" in reasons["huge.png"]
    assert "truncated" in reasons["half.jpg"] and "not an image" in reasons["text.jpg"]
    clean = open_folder(class_folder(tmp_path / "q", 950), cache)
    assert np.array_equal(clean.images, store.images)  # what is left is moved together, in order
    assert time.monotonic() - started < 60


def test_one_bad_in_a_hundred_is_left_out(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 99)
    (root / "class0" / "bad.png").write_bytes(b"?")
    assert [bad.path for bad in open_folder(root, cache).bad] == ["class0/bad.png"]


def test_class_folders_are_classes_and_train_and_test_above_them_are_splits(tmp_path: Path, cache: Path) -> None:
    put(
        tmp_path / "p",
        *(f"train/{c}/{i}.png" for c in ("ant_lion", "Bee") for i in range(10)),
        "test/Bee/1.png",
        "test/ant_lion/2.png",
    )
    store = open_folder(tmp_path / "p", cache)
    assert store.class_names == ("Bee", "ant_lion")
    assert [store.names[i] for i in store.split("test")] == ["test/Bee/1.png", "test/ant_lion/2.png"]
    assert store.class_captions(1) == ["a photo of a ant lion"]
    assert store.label_of_prompt("A photo of a Ant  lion") == 1


def test_texts_beside_the_images_are_captions(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "p"
    put(root, "a.png", "b.png", "readme.d/c.png")
    for name, text in (("a", "a cat\n\n a black cat \n"), ("b", "ein Hund, größer"), ("readme.d/c", "x")):
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    store = open_folder(root, cache)
    assert [store.captions_of(i) for i in range(3)] == [["a cat", "a black cat"], ["ein Hund, größer"], ["x"]]
    assert store.labels.tolist() == [-1, -1, -1] and store.label_of_prompt("a cat") is None
    (root / "b.txt").unlink()
    with pytest.raises(BadFilesError, match=r"b.png: no caption: b.txt is missing"):
        open_folder(root, cache)


def table(root: Path, rows: list[object]) -> Path:
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def test_metadata_gives_captions_classes_and_attributes(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "p"
    put(root, "a.png", "deep/b.png", "c.png")
    table(root, [
        {"file_name": "a.png", "text": "one\u2028two", "label": "x", "style": "cubism"},
        {"file_name": "./deep/b.png", "captions": ["B", "b"], "label": "y", "style": "dada"},
        {"file_name": "c.png", "text": "C", "label": "x", "style": "op"},
        {"file_name": "c.png", "text": "cc"},
    ])  # fmt: skip
    store = open_folder(root, cache)
    assert store.class_names == ("x", "y") and store.labels.tolist() == [0, 0, 1]
    assert [store.captions_of(i) for i in range(3)] == [["one two"], ["C", "cc"], ["B", "b"]]
    assert store.attributes[2] == {"style": "dada"}
    styled = open_folder(root, cache, captions=["{text} in {style}", "{class}"])
    assert styled.captions_of(1) == ["C in op", "cc in op", "x"] and styled.class_captions(1) == ["y"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file_name": "../secret.png", "text": "x"}], "leads out of the folder"),
        ([{"file_name": "/etc/passwd", "text": "x"}], "leads out of the folder"),
        ([{"file_name": "C:\\x.png", "text": "x"}], "leads out of the folder"),
        ([{"file_name": "a/../../x.png", "text": "x"}], "leads out of the folder"),
        ([{"file_name": 3, "text": "x"}], "file's name is needed"),
        ([{"file": "a.png", "text": "x"}], "file_name is missing"),
        (["a.png"], "line 1"),
        ([{"file_name": "a.png", "text": {"x": 1}}], "must be a text"),
        ([{"file_name": "a.png", "text": "x", "label": [1]}], "a label is"),
        ([{"file_name": "a.png"}], "no caption"),
        ([{"file_name": "a.png", "text": "  "}], "no caption"),
        ([{"file_name": "b.png", "text": "x"}], "no such file"),
    ],
)
def test_wrong_metadata_are_one_clear_error(tmp_path: Path, cache: Path, rows: list[object], words: str) -> None:
    (tmp_path / "secret.png").write_bytes(encoded())
    put(tmp_path / "p", "a.png")
    with pytest.raises(DataError, match=words) as caught:
        open_folder(table(tmp_path / "p", rows), cache)
    assert len(str(caught.value).splitlines()) <= 10


def test_metadata_that_are_not_json_name_the_line(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "p", "a.png")
    (tmp_path / "p" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n{oops\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2: not JSON"):
        open_folder(tmp_path / "p", cache)
    (tmp_path / "p" / "metadata.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="not text in UTF-8"):
        open_folder(tmp_path / "p", cache)


def test_captions_missing_is_a_clear_error_unless_templates_say_it_all(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "p", "a.png", "b.png")
    with pytest.raises(DataError, match="captions are missing"):
        open_folder(tmp_path / "p", cache)
    assert open_folder(tmp_path / "p", cache, captions=["a texture"]).all_captions() == ["a texture"]
    with pytest.raises(DataError, match=r"no value for \{class\}"):
        open_folder(tmp_path / "p", cache, captions=["a {class}"])
    with pytest.raises(DataError, match="2 of 2 images have no caption"):
        open_folder(tmp_path / "p", cache, captions=["{text}"])


def test_wrong_folders_are_clear_errors(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "pictures", "a/a.png")
    with pytest.raises(DataError, match=r"no such folder\. Did you mean 'pictures'"):
        open_folder(tmp_path / "picture", cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not one image"):
        open_folder(tmp_path / "empty", cache)
    put(tmp_path / "mixed", "a/a.png", "stray.png")
    with pytest.raises(BadFilesError, match=r"stray\.png: not in the folder of a class"):
        open_folder(tmp_path / "mixed", cache)
    (tmp_path / "allbad" / "a").mkdir(parents=True)
    (tmp_path / "allbad" / "a" / "x.jpg").write_bytes(b"x")
    with pytest.raises(BadFilesError, match="not one image can be read"):
        open_folder(tmp_path / "allbad", cache)


def test_own_size_must_be_the_same_for_all(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 100)
    (root / "class0" / "x.png").write_bytes(encoded(side=30))
    store = open_folder(root, cache, size=None, max_bad=0.02)
    assert store.images.shape == (100, 3, 24, 24)
    assert store.bad == [("class0/x.png", "30x30 pixels, the others 24x24: give a `size`")]
    assert open_folder(root, cache, size=(8, 12), channels=1).images.shape == (101, 1, 8, 12)


def test_hidden_files_pipes_and_links_do_no_harm(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 200)
    (root / "class0" / ".DS_Store").write_bytes(b"x")
    (root / "class0" / "notes.txt").write_text("x")
    (root / "class0" / "loop").symlink_to(root)
    (root / "class0" / "again.jpg").symlink_to(root / "class1" / "00001.jpg")
    os.mkfifo(root / "class0" / "pipe.jpg")
    store = open_folder(root, cache)
    assert len(store) == 201 and store.bad == [("class0/pipe.jpg", "not a regular file")]


def test_a_limit_takes_some_of_every_class(tmp_path: Path, cache: Path) -> None:
    store = open_folder(class_folder(tmp_path / "p", 200), cache, limit=60)
    assert len(store) == 60 and np.bincount(store.labels).min() >= 5
