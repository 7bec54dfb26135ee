"""IDX files: read whole, or refused in one sentence before anything is allocated."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import little_memory

from limner.data import SOURCES, Store
from limner.data.idx import FASHION, FOLDERS, open_idx, read_header
from limner.errors import ConfigError, DataError, MissingError


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def dataset(folder: Path, *, num: int = 60, test: int = 0, gz: bool = False, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for prefix, count in (("train", num), ("t10k", test)):
        if count:
            for name, array in (
                ("images-idx3", rng.integers(0, 256, (count, 12, 10))),
                ("labels-idx1", np.arange(count) % 10),
            ):
                data = idx(array)
                path = folder / f"{prefix}-{name}-ubyte{'.gz' if gz else ''}"
                path.write_bytes(gzip.compress(data, 1) if gz else data)
    return folder


def open_idx_source(path: Path, cache: Path, **more: object) -> Store:
    return SOURCES.parse({"kind": "idx", "path": str(path), **more}).open(cache)


@pytest.mark.parametrize("gz", [False, True])
def test_images_and_labels_come_in_their_order(tmp_path: Path, cache: Path, gz: bool) -> None:
    store = open_idx_source(dataset(tmp_path / "d", test=20, gz=gz), cache)
    assert store.images.shape == (80, 1, 12, 10)
    assert np.array_equal(store.images[:60, 0], np.random.default_rng(0).integers(0, 256, (60, 12, 10)))
    assert store.labels.tolist() == [*(np.arange(60) % 10), *(np.arange(20) % 10)]
    assert store.split("test").tolist() == list(range(60, 80)) and len(store.split("judge")) == 10
    assert store.class_names == tuple("0123456789")


def test_without_a_test_set_some_of_train_is_kept(tmp_path: Path, cache: Path) -> None:
    store = open_idx_source(dataset(tmp_path / "d"), cache, classes=[f"c{i}" for i in range(10)], limit=40)
    assert len(store) == 40 and len(store.split("test")) > 0 and store.class_names[3] == "c3"


@pytest.mark.skipif(not Path(FOLDERS["fashion-mnist"][0]).is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_is_found_by_itself(cache: Path) -> None:
    store = SOURCES.parse({"kind": "idx", "name": "fashion-mnist", "limit": 700}).open(cache)
    assert store.images.shape == (700, 1, 28, 28) and store.class_names == FASHION
    assert len(store.split("test")) == 100 and 60 < store.images.mean() < 85
    assert store.label_of_prompt("a photo of a t-shirt") == 0


def test_a_data_set_that_is_nowhere_says_what_to_install(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOLDERS, "fashion-mnist", (str(tmp_path / "no"), "data/none"))
    with pytest.raises(MissingError, match="apt-get install dataset-fashion-mnist"):
        SOURCES.parse({"kind": "idx", "name": "fashion-mnist"}).open(cache)
    with pytest.raises(ConfigError, match="give `path`"):
        SOURCES.parse({"kind": "idx"})
    with pytest.raises(DataError, match="no such folder"):
        open_idx_source(tmp_path / "no", cache)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def cut(path: Path, num: int) -> None:
    path.write_bytes(path.read_bytes()[:num])


FAULTS = {
    "truncated images": (lambda d: cut(d / IMAGES, 500), "images.*truncated"),
    "truncated labels": (lambda d: cut(d / LABELS, 30), "labels.*truncated"),
    "truncated header": (lambda d: cut(d / IMAGES, 9), "truncated"),
    "only a magic": (lambda d: cut(d / IMAGES, 3), "truncated"),
    "empty": (lambda d: cut(d / IMAGES, 0), "truncated"),
    "too long": (lambda d: (d / IMAGES).write_bytes((d / IMAGES).read_bytes() + b"x"), "too long"),
    "magic": (lambda d: (d / IMAGES).write_bytes(b"PK\3\4" + (d / IMAGES).read_bytes()[4:]), "not an IDX file"),
    "floats": (lambda d: (d / IMAGES).write_bytes(b"\0\0\x0d\3" + (d / IMAGES).read_bytes()[4:]), "unsigned bytes"),
    "labels as images": (lambda d: (d / IMAGES).write_bytes((d / LABELS).read_bytes()), "1 dimensions"),
    "another count": (lambda d: (d / LABELS).write_bytes(idx(np.zeros(59))), "60 images, but .* has 59 labels"),
    "no labels": (lambda d: (d / LABELS).unlink(), "its labels, .*, are missing"),
    "no images": (lambda d: (d / IMAGES).unlink(), r"there is no \*images"),
    "two sets": (lambda d: [(d / f"z-{name}").write_bytes(b"") for name in (IMAGES, LABELS)], "leave only one"),
    "gzip cut": (lambda d: (d / IMAGES).write_bytes(gzip.compress((d / IMAGES).read_bytes())[:-200]), "gzip stream"),
    "gzip damaged": (lambda d: (d / IMAGES).write_bytes(b"\x1f\x8b" + b"\x55" * 300), "gzip stream"),
    "gzip longer": (lambda d: (d / IMAGES).write_bytes(gzip.compress((d / IMAGES).read_bytes() + b"x")), "more bytes"),
    "class names": (None, "label 5, but there are 5 class names"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_clear_error(tmp_path: Path, cache: Path, fault: str) -> None:
    folder = dataset(tmp_path / "d")
    spoil, words = FAULTS[fault]
    if spoil:
        spoil(folder)
    with pytest.raises(DataError, match=words) as caught:
        open_idx_source(folder, cache, **({} if spoil else {"classes": list("abcde")}))
    assert len(str(caught.value).splitlines()) <= 3
    assert not [path for path in cache.glob("*") if path.is_dir()]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    "shape", [(2**32 - 1,) * 3, (2**31, 28, 28), (10**8, 8192, 8192), (0, 28, 28), (1, 0, 28), (60000, 9000, 2)]
)
def test_absurd_headers_allocate_nothing(tmp_path: Path, cache: Path, shape: tuple[int, ...], gz: bool) -> None:
    folder = dataset(tmp_path / "d")
    data = b"\0\0\x08\3" + struct.pack(">3I", *shape) + bytes(10_000)
    (folder / IMAGES).write_bytes(gzip.compress(data) if gz else data)
    with little_memory(3), pytest.raises(DataError, match=IMAGES):
        open_idx_source(folder, cache)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_header_is_dimensions_that_fit_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, near: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes((b"\0\0\x08\3" if near else b"") + data)
    with open_idx(path) as file:
        try:
            shape = read_header(file, path, dims=3)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert 16 + np.prod(shape) == path.stat().st_size
