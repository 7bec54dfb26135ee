"""Tables of pictures, and the hub with and without internet."""

from __future__ import annotations

import csv
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded

from limner.data import SOURCES, BadFilesError, Store
from limner.data.fetch import fetch
from limner.data.hub import fetched_folder
from limner.errors import ConfigError, DataError, MissingError

ROWS = [{"image": f"pics/{i}.png", "text": f"caption {i}", "kind": "ab"[i % 2], "hue": i / 2} for i in range(6)]


def pictures(folder: Path) -> Path:
    (folder / "pics").mkdir(parents=True, exist_ok=True)
    for i in range(6):
        (folder / "pics" / f"{i}.png").write_bytes(encoded(i))
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def open_table(path: Path, cache: Path, **more: object) -> Store:
    kind = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}[path.suffix]
    return SOURCES.parse({"kind": kind, "path": str(path), "size": 16, **more}).open(cache)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_tables_name_images_texts_and_classes(tmp_path: Path, cache: Path, ending: str) -> None:
    path = write(pictures(tmp_path) / f"t.{ending}", ROWS)
    store = open_table(path, cache, label="kind")
    assert store.names == [row["image"] for row in ROWS]
    assert [store.captions_of(i) for i in range(6)] == [[f"caption {i}"] for i in range(6)]
    assert store.class_names == ("a", "b") and store.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert open_table(path, cache, label="kind", captions=["{class}: {text}, {hue}"]).captions_of(3) == ["b: caption 3, 1.5"]
    assert len(open_table(path, cache, limit=4)) == 4


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"image": "imag"}, "no column 'imag' .*Did you mean 'image'"),
        ({"text": ["txt"]}, r"no column 'txt' \(text\)"),
        ({"label": "clas"}, "no column 'clas'"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, cache: Path, ending: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_table(write(pictures(tmp_path) / f"t.{ending}", ROWS), cache, **more)


@pytest.mark.parametrize("path", ["../out.png", "/etc/hostname", "pics/../../out.png", "link.png"])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, cache: Path, ending: str, path: str) -> None:
    (tmp_path / "out.png").write_bytes(encoded())
    folder = pictures(tmp_path / "t")
    os.symlink("../out.png", folder / "link.png")
    with pytest.raises(BadFilesError, match="leads out of the folder"):
        open_table(write(folder / f"t.{ending}", [*ROWS, {**ROWS[0], "image": path}]), cache)


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path, cache: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "image": "pics/no.png"}, {**ROWS[1], "text": ""}, {**ROWS[2], "image": "pics"}]
    store = open_table(write(pictures(tmp_path) / "t.jsonl", rows), cache, max_bad=0.5)
    assert len(store) == 6
    assert sorted(bad.reason for bad in store.bad) == ["no caption in text", "no such file", "not a regular file"]


def test_an_image_that_changed_is_decoded_again(tmp_path: Path, cache: Path) -> None:
    path = write(pictures(tmp_path) / "t.jsonl", ROWS)
    before = np.array(open_table(path, cache).images)
    (tmp_path / "pics" / "0.png").write_bytes(encoded(99, side=40))
    assert not np.array_equal(open_table(path, cache).images[0], before[0])


def test_parquet_holds_images_and_their_class_names(tmp_path: Path, cache: Path) -> None:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])})
    rows = {"img": [{"bytes": encoded(i), "path": None} for i in range(6)], "label": [0, 1] * 3}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    store = open_table(tmp_path / "t.parquet", cache, label="label")
    assert store.class_names == ("zebra", "ant") and store.labels.tolist() == [0, 1] * 3
    assert store.captions_of(1) == ["a photo of a ant"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_tables_that_are_none_are_clear_errors(tmp_path: Path, cache: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    with pytest.raises(DataError, match=r"there is no such"):
        open_table(path, cache)
    for junk in (b"", b"\xff\xfe\0junk", b'"unclosed\n'):
        path.write_bytes(junk)
        with pytest.raises(DataError) as caught:
            open_table(path, cache)
        assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize("name", ["../x", "a/b/c", "https://x.y/z", "/abs", "a b", "a/..", "-x"])
def test_what_is_no_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        SOURCES.parse({"kind": "hub", "name": name})
    with pytest.raises(ConfigError):
        fetch(name)


@pytest.mark.parametrize("streaming", [False, True])
def test_without_internet_the_error_says_what_to_do(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.chdir(tmp_path)

    def offline(*_: object, **__: object) -> Any:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(MissingError, match=r"limner data fetch some/set; then put its folder here as data/some--set"):
        SOURCES.parse({"kind": "hub", "name": "some/set", "streaming": streaming}).open(cache)


@pytest.mark.slow
def test_offline_for_real(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(MissingError):
        SOURCES.parse({"kind": "hub", "name": "some/set"}).open(cache)


def small_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set as the library gives it, without a network."""
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["zebra", "ant"]),
            "sentences": {"raw": [datasets.Value("string")]},
        }
    )

    def made(num: int) -> datasets.Dataset:
        return datasets.Dataset.from_dict(
            {
                "image": [{"bytes": encoded(i), "path": None} for i in range(num)],
                "label": [i % 2 for i in range(num)],
                "sentences": [{"raw": [f"s{i}", f"t{i}"]} for i in range(num)],
            },
            features=features,
        )

    def load(name: str, subset: str | None, *, split: str | None, revision: str | None, streaming: bool) -> Any:
        splits = datasets.DatasetDict({"train": made(10), "test": made(4)})
        if split is None:
            return splits
        if split not in splits:
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train', 'test'].")
        return splits[split].to_iterable_dataset() if streaming else splits[split]

    monkeypatch.setattr("datasets.load_dataset", load)


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_sets_come_with_splits_classes_and_captions(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    small_hub(monkeypatch)
    source = {
        "kind": "hub",
        "name": "some/set",
        "label": "label",
        "test_split": "test",
        "size": 16,
        "streaming": streaming,
    }
    store = SOURCES.parse(source).open(cache)
    assert len(store) == 14 and store.split("test").tolist() == [10, 11, 12, 13]
    assert store.class_names == ("zebra", "ant") and store.captions_of(1) == ["s1", "t1"]
    with pytest.raises(DataError, match="Unknown split"):
        SOURCES.parse({**source, "split": "trian"}).open(cache)
    with pytest.raises(DataError, match=r"no column 'lable'.*Did you mean 'label'"):
        SOURCES.parse({**source, "label": "lable"}).open(cache)


def test_a_fetched_set_is_read_without_the_hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_hub(monkeypatch)
    source = {"kind": "hub", "name": "some/set", "label": "label", "size": 16}
    online = SOURCES.parse(source).open(cache)
    folder = fetch("some/set")
    assert folder == fetched_folder("some/set") and sorted(path.name for path in folder.iterdir()) == [
        "test-00000.parquet",
        "train-00000.parquet",
    ]
    with pytest.raises(DataError, match="is there already"):
        fetch("some/set")
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    local = SOURCES.parse(source).open(tmp_path / "other")
    assert np.array_equal(local.images, online.images) and local.class_names == online.class_names
    assert local.captions_of(3) == online.captions_of(3)
