"""The store: whole or absent, damage noticed, splits and fingerprint that never change by themselves."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import class_folder

from limner.data import SOURCES, Store
from limner.data import worker as worker_module
from limner.data.splits import assign, choose
from limner.errors import DataError

OPEN = """
import sys
from pathlib import Path
from limner.data import SOURCES
SOURCES.parse({"kind": "folder", "path": sys.argv[1], "size": 16}).open(Path(sys.argv[2]), processes=2)
"""


def open_folder(root: Path, cache: Path, processes: int | None = 1, **more: object) -> Store:
    return SOURCES.parse({"kind": "folder", "path": str(root), "size": 16, **more}).open(cache, processes=processes)


def test_a_store_is_decoded_once_and_then_reused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folder(tmp_path / "p", 20)
    first = open_folder(root, cache)
    monkeypatch.setattr("limner.data.build._fill", lambda *_: pytest.fail("decoded twice"))
    second = open_folder(root, cache, judge=0.3)  # another split is no other content
    assert np.array_equal(first.images, second.images)
    assert first.fingerprint != second.fingerprint == open_folder(root, cache, judge=0.3).fingerprint
    assert first.class_names == ("class0", "class1", "class2", "class3")
    assert first.labels.tolist() == sorted(first.labels.tolist())
    assert not first.images.flags.writeable


def test_a_changed_folder_is_another_store(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 20)
    assert len(open_folder(root, cache)) == 20
    class_folder(root, 24)
    assert len(open_folder(root, cache)) == 24


def test_content_is_equal_for_one_and_two_processes(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "p", 300)
    (root / "class1" / "00005.jpg").write_bytes(b"no image")
    (root / "class3" / "00299.jpg").write_bytes(b"")
    one, two = (open_folder(root, tmp_path / f"c{n}", processes=n) for n in (1, 2))
    assert np.array_equal(one.images, two.images)
    assert one.bad == two.bad and [Path(path).name for path, _ in one.bad] == ["00005.jpg", "00299.jpg"]
    assert one.names == two.names and one.fingerprint == two.fingerprint
    by_name = dict(zip(one.names, one.images, strict=True))
    alone = open_folder(class_folder(tmp_path / "q", 100), tmp_path / "c3")
    assert all(
        np.array_equal(image, by_name[name])
        for name, image in zip(alone.names, alone.images, strict=True)
        if name != "class1/00005.jpg"
    )


@pytest.mark.parametrize("turn", range(3))
def test_killed_in_the_middle_the_next_open_works(tmp_path: Path, cache: Path, turn: int) -> None:
    root = class_folder(tmp_path / "p", 1200, side=32)
    process = subprocess.Popen([sys.executable, "-c", OPEN, str(root), str(cache)])
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in cache.glob(".*tmp*/images.u8")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    time.sleep(random.Random(turn).uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(not path.name.startswith("folder-") or (path / "meta.json").is_file() for path in cache.iterdir())
    store = open_folder(root, cache)
    assert len(store) == 1200 and not store.bad
    assert not list(cache.glob(".*tmp*"))


def damage(folder: Path, how: str) -> None:
    meta, images = folder / "meta.json", folder / "images.u8"
    if how == "a truncated image file":
        os.truncate(images, images.stat().st_size - 1)
    elif how == "a byte of the images":
        flip(images, 1000)
    elif how == "a byte of the meta data":
        meta.write_text(meta.read_text().replace('"count": 20', '"count": 19'))
    elif how == "a truncated meta file":
        os.truncate(meta, 50)
    elif how == "another format":
        content = json.loads(meta.read_text())
        meta.write_text(json.dumps({**content, "format": 99}))
    elif how == "meta data that are a list":
        meta.write_text("[]")
    elif how == "no meta data":
        meta.unlink()
    elif how == "no labels":
        (folder / "labels.npy").unlink()
    else:
        flip(folder / how, 3)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how",
    [
        "a truncated image file",
        "a byte of the images",
        "a byte of the meta data",
        "a truncated meta file",
        "another format",
        "meta data that are a list",
        "no meta data",
        "no labels",
        "labels.npy",
        "captions.json",
        "groups.npy",
        "names.json",
    ],
)
def test_a_damaged_store_is_noticed_and_built_again(tmp_path: Path, cache: Path, how: str) -> None:
    root = class_folder(tmp_path / "p", 20)
    whole = open_folder(root, cache)
    images, fingerprint = np.array(whole.images), whole.fingerprint
    damage(whole.folder, how)
    again = open_folder(root, cache)
    assert np.array_equal(again.images, images) and again.fingerprint == fingerprint
    assert len(again.notices) == 1 and "damaged" in again.notices[0]
    assert not open_folder(root, cache).notices


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folder(tmp_path / "p", 20)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(worker_module.os, "pwrite", full)
        with pytest.raises(DataError, match="No space left"):
            open_folder(root, cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert len(open_folder(root, cache)) == 20


def test_a_cache_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "p", 4)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        open_folder(root, tmp_path / "file" / "cache")


def test_two_processes_opening_at_once_build_one_store(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 300)
    both = [subprocess.Popen([sys.executable, "-c", OPEN, str(root), str(cache)]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_store_travels_to_another_process_by_its_folder(tmp_path: Path, cache: Path) -> None:
    store = open_folder(class_folder(tmp_path / "p", 20), cache)
    packed = pickle.dumps(store)
    assert len(packed) < 10_000
    assert np.array_equal(pickle.loads(packed).split("judge"), store.split("judge"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=300), st.floats(0, 0.45), st.floats(0, 0.45), st.booleans())
def test_splits_are_disjoint_stratified_and_pure(classes: list[int], judge: float, test: float, preset: bool) -> None:
    labels = np.array(classes)
    tests = np.zeros(len(labels), bool)
    tests[: len(labels) // 4] = preset
    places = assign(labels, tests, judge=judge, test=test)
    assert np.array_equal(places, assign(labels.copy(), tests.copy(), judge=judge, test=test))
    assert (places[tests] == 2).all()
    for label in np.unique(labels):
        own = places[(labels == label) & ~tests]
        assert abs((own == 1).sum() - judge * len(own)) <= 0.5 + 1e-9
        assert abs((own == 2).sum() - (0 if tests.any() else test) * len(own)) <= 0.5 + 1e-9


def test_splits_are_the_same_for_ever() -> None:
    places = assign(np.repeat([0, 1], 10), np.zeros(20, bool), judge=0.2, test=0.2)
    assert places.tolist() == [2, 0, 0, 0, 0, 1, 2, 0, 0, 1, 2, 0, 1, 0, 2, 0, 0, 1, 0, 0]
    assert choose(10, 3).tolist() == [0, 6, 7] and choose(3, 5).tolist() == [0, 1, 2]


def test_the_three_splits_are_every_image_once(tmp_path: Path, cache: Path) -> None:
    store = open_folder(class_folder(tmp_path / "p", 80), cache)
    parts = [store.split("train"), store.split("judge"), store.split("test")]
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    assert np.bincount(store.labels[parts[1]]).tolist() == [3, 3, 3, 3]
    with pytest.raises(DataError, match=r"'trian'\. Did you mean 'train'"):
        store.split("trian")  # type: ignore[arg-type]
