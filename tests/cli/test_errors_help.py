"""Sixty and more wrong requests: each ends with exit code 2, at most ten lines, the culprit named, and nothing touched."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@dataclass
class Place:
    """Where a wrong request is made: an empty folder, the tiny recipe, a finished run that must stay as it is."""

    tmp: Path
    recipe: Path
    run: Path

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def damaged(self, name: str, change: Callable[[bytes], bytes]) -> Path:
        """Return a copy of the run with one file changed."""
        copy = Path(shutil.copytree(self.run, self.tmp / "damaged"))
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        return copy

    def edited(self, name: str, **changes: Any) -> Path:
        return self.damaged(name, lambda data: json.dumps(json.loads(data) | changes).encode())

    def unfinished(self) -> Path:
        """Return a copy of the run that was stopped before its end."""
        copy = Path(shutil.copytree(self.run, self.tmp / "unfinished"))
        (copy / "finished.json").unlink()
        return copy

    def idx(self, *, images: bytes | None = None, labels: bytes | None = None) -> Path:
        """Return a folder of IDX files, 20 images of 28x28, one of them replaced."""
        good_images = struct.pack(">HBBIII", 0, 8, 3, 20, 28, 28) + bytes(20 * 784)
        good_labels = struct.pack(">HBBI", 0, 8, 1, 20) + bytes(i % 10 for i in range(20))
        self.file("idx/train-images-idx3-ubyte", good_images if images is None else images)
        self.file("idx/train-labels-idx1-ubyte", good_labels if labels is None else labels)
        return self.tmp / "idx"

    def pictures(self, **files: bytes) -> Path:
        """Return a folder with two classes of two good pictures each, and further files in the first."""
        for label in ("cat", "dog"):
            (self.tmp / "pictures" / label).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((28, 28), 40 * i, np.uint8)).save(self.tmp / "pictures" / label / f"{i}.png")
        for name, content in files.items():
            (self.tmp / "pictures" / "cat" / f"{name}.png").write_bytes(content)
        return self.tmp / "pictures"


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def train(*more: Any) -> Callable[[Place], list[Any]]:
    return lambda p: ["train", p.recipe, "--out", p.tmp / "out", *more]


def sample(*more: Any) -> Callable[[Place], list[Any]]:
    return lambda p: ["sample", p.run, *(more or ("7",)), "--out", p.tmp / "out"]


def resume(*more: Any) -> Callable[[Place], list[Any]]:
    return lambda p: ["train", p.recipe, "--out", p.unfinished(), "--resume", *more]


def idx(**files: Any) -> Callable[[Place], list[Any]]:
    return lambda p: ["train", p.recipe, "data.kind=idx", f"data.path={p.idx(**files)}", "--out", p.tmp / "out"]


def folder(**files: bytes) -> Callable[[Place], list[Any]]:
    return lambda p: [
        "train",
        p.recipe,
        "data.kind=folder",
        f"data.path={p.pictures(**files)}",
        "data.channels=1",
        "--out",
        p.tmp / "out",
    ]


CASES: dict[str, tuple[Callable[[Place], list[Any]], str]] = {
    # recipes: which, keys, values, types
    "unknown verb": (lambda p: ["trian", "digits"], "trian"),
    "unknown option": (train("--ot", "x"), "--ot"),
    "no recipe": (lambda p: ["train"], "[Mm]issing argument"),
    "unknown recipe": (lambda p: ["train", "digts"], "Did you mean 'digits'"),
    "missing recipe file": (lambda p: ["train", p.tmp / "no.yaml"], "no.yaml"),
    "recipe file is a folder": (lambda p: ["train", p.file("x.yaml/y", "").parent], "x.yaml"),
    "recipe with a very long name": (lambda p: ["train", "x" * 5000], "x"),
    "recipe is binary": (lambda p: ["train", p.file("b.yaml", os.urandom(4000))], "b.yaml"),
    "recipe is empty": (lambda p: ["train", p.file("e.yaml", "")], "e.yaml"),
    "recipe is a list": (lambda p: ["train", p.file("l.yaml", "- a\n- b")], "l.yaml.*mapping"),
    "recipe is broken YAML": (lambda p: ["train", p.file("y.yaml", "name: x\ntrain: {lr: 1")], "y.yaml.*line"),
    "recipe with a Python tag": (lambda p: ["train", p.file("t.yaml", "name: !!python/object/apply:os.getcwd []")], "t.yaml.*YAML"),
    "recipe is a YAML bomb": (
        lambda p: ["train", p.file("m.yaml", "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(12)))],
        "m.yaml.*larger",
    ),
    "recipe without data": (lambda p: ["train", p.file("d.yaml", "name: x\ntrain: {images: 10}")], "data: this key is required"),
    "unknown key": (train("train.learning_rat=1"), r"train\.learning_rat"),
    "unknown part": (train("netwrok.kind=unet"), "Did you mean 'network'"),
    "unknown kind": (train("network.kind=unnet"), "Did you mean 'unet'"),
    "value of another type": (train("train.batch=many"), r"train\.batch"),
    "negative learning rate": (train("train.lr=-0.1"), r"train\.lr"),
    "learning rate NaN": (train("train.lr=.nan"), r"train\.lr"),
    "both budgets": (train("train.seconds=5", "train.images=5"), "one budget"),
    "no budget": (train("train.images=null"), "one budget"),
    "override without =": (train("train.lr"), "train.lr.*key=value"),
    "override with an empty key": (train("=3"), "key=value"),
    "override that is broken YAML": (train("train.lr=[1"), r"train\.lr"),
    "override of a key of a number": (train("train.lr.x=1"), r"train\.lr"),
    "own code that is not there": (train("network.kind=no.py:Net"), "no.py"),
    "negative training seed": (train("train.seed=-3"), r"train\.seed"),
    "unknown tracker": (train("train.trackers=[tensorbord]"), "tensorbord"),
    "ill-posed target": (train("process.kind=cosine", "target.kind=eps"), "t_max"),
    # sizes
    "absurd widths": (train("network.widths=[8192, 8192]", "network.head_width=256"), "GiB|memory|widths"),
    "absurd batch": (train("train.batch=1000000000"), r"train\.batch"),
    "batch too large for the memory": (train("train.batch=65536", "data.size=2048", "train.images=65536"), "GiB|memory"),
    "absurd image size": (train("data.size=1000000"), "size"),
    "absurd EMA": (train("train.ema=[3]"), r"train\.ema"),
    "size that does not divide": (train("data.size=27"), "27x27"),
    "batch that does not divide": (train("train.accumulate=7"), "multiple of 7"),
    # run folders
    "existing run without --resume": (lambda p: ["train", p.recipe, "--out", p.run], "--resume"),
    "run named without --resume": (lambda p: ["train", p.run], "--resume"),
    "resume with another recipe": (resume("train.lr=1e-4"), r"train\.lr"),
    "resume with another network": (resume("network.widths=[16, 16]"), "widths"),
    "resume of a finished run with another recipe": (
        lambda p: ["train", p.recipe, "--out", p.run, "--resume", "train.lr=1e-4"],
        r"train\.lr",
    ),
    "out is a file": (lambda p: ["train", p.recipe, "--out", p.file("out", "x")], "out"),
    "out below a file": (lambda p: ["train", p.recipe, "--out", p.file("f", "x") / "run"], "f"),
    "cache is a file": (lambda p: ["train", p.recipe, "--out", p.tmp / "o", "--cache", p.file("c", "x")], "c"),
    # data
    "IDX folder missing": (lambda p: ["train", p.recipe, "data.kind=idx", f"data.path={p.tmp}/nowhere", "--out", p.tmp / "out"], "nowhere"),
    "IDX truncated": (idx(images=struct.pack(">HBBIII", 0, 8, 3, 20, 28, 28) + bytes(5000)), "train-images"),
    "IDX of other numbers": (idx(images=struct.pack(">HBBIII", 0, 13, 3, 20, 28, 28) + bytes(20 * 784 * 4)), "train-images"),
    "IDX claims a billion images": (idx(images=struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**15, 2**15)), "train-images"),
    "IDX empty": (idx(images=b""), "train-images"),
    "IDX labels too few": (idx(labels=struct.pack(">HBBI", 0, 8, 1, 3) + b"\0\1\2"), "labels|3"),
    "IDX gzip cut": (lambda p: _gzip_cut(p), "train-images"),
    "pictures folder missing": (
        lambda p: ["train", p.recipe, "data.kind=folder", f"data.path={p.tmp}/none", "--out", p.tmp / "out"],
        "none",
    ),
    "pictures corrupt": (folder(bad=b"\x89PNG\r\n\x1a\nrubbish", worse=b"\xff\xd8\xff\xe0rubbish"), "bad.png|worse.png"),
    "picture of 4 gigapixels": (folder(bomb=png_header(65_000, 65_000)), "bomb.png"),
    "picture that is text": (folder(words=b"hello"), "words.png"),
    # models
    "sample from nowhere": (lambda p: ["sample", p.tmp / "nowhere", "7"], "nowhere"),
    "sample from an empty folder": (lambda p: ["sample", p.tmp, "7"], "no run or model"),
    "sample from a file": (lambda p: ["sample", p.recipe, "7"], "tiny.yaml"),
    "weights with one bit flipped": (lambda p: ["sample", p.damaged("model/weights.safetensors", flip), "7"], "weights.*SHA-256"),
    "weights cut": (lambda p: ["sample", p.damaged("model/weights.safetensors", lambda d: d[:500]), "7"], "weights"),
    "model.json empty": (lambda p: ["sample", p.damaged("model/model.json", lambda d: b""), "7"], "model.json"),
    "model.json of another format": (lambda p: ["sample", p.edited("model/model.json", format=99), "7"], "format 99"),
    "model.json with code": (lambda p: ["sample", p.edited("model/model.json", codec={"kind": "x.py:Y"}), "7"], "--allow"),
    "tokenizer damaged": (lambda p: ["sample", p.damaged("model/tokenizer.json", flip), "7"], "tokenizer"),
    # sampling
    "no prompt": (lambda p: ["sample", p.run], "no prompt"),
    "empty prompt": (sample(""), "empty"),
    "blank prompt": (sample("7", "  "), "prompt 2 is empty"),
    "unknown word": (sample("a handwriten digit"), "'handwriten'.*Did you mean 'handwritten'"),
    "only signs": (sample("🦄"), "🦄|no words"),
    "missing prompts file": (sample("--prompts", "no-prompts.txt"), "no-prompts.txt"),
    "binary prompts file": (lambda p: ["sample", p.run, "--prompts", p.file("b.txt", b"\xff\xfe\x00" * 40)], "b.txt"),
    "empty prompts file": (lambda p: ["sample", p.run, "--prompts", p.file("e.txt", "\n\n")], "e.txt"),
    "prompts folder": (lambda p: ["sample", p.run, "--prompts", p.tmp], "--prompts"),
    "num of a billion": (sample("7", "--num", 10**9), "1000000000"),
    "num of zero": (sample("7", "--num", 0), "0 images|num"),
    "steps of a billion": (sample("7", "--steps", 10**9), "steps"),
    "steps that are a word": (sample("7", "--steps", "few"), "--steps"),
    "negative seed": (sample("7", "--seed", -1), "seed"),
    "absurd seed": (sample("7", "--seed", 10**30), "seed"),
    "batch size of zero": (sample("7", "--batch-size", 0), "batch"),
    "guidance NaN": (sample("7", "--guidance", "nan"), "guidance"),
    "unknown sampler": (sample("7", "--sampler", "ab22"), "Did you mean 'ab2'"),
    "unknown grid": (sample("7", "--grid", "unifrom"), "Did you mean 'uniform'"),
    "missing grid": (sample("7", "--grid", "no.json"), "no.json"),
    "interval of one time": (sample("7", "--interval", "0.5"), "--interval"),
    "interval backwards": (sample("7", "--interval", "0.9,0.1"), "interval"),
    "unknown precision": (sample("7", "--precision", "fp8"), "fp8"),
    "strength of two": (sample("7", "--strength", 2), "--strength"),
    "missing start picture": (sample("7", "--image", "no.png"), "no.png"),
    "start picture is no picture": (lambda p: ["sample", p.run, "7", "--image", p.file("p.png", "hello")], "p.png"),
    "start picture is a bomb": (lambda p: ["sample", p.run, "7", "--image", p.file("p.png", png_header(65_000, 65_000))], "p.png"),
    "sample out is a file": (lambda p: ["sample", p.run, "7", "--out", p.file("o", "x")], "--out"),
    "unknown EMA": (sample("7", "--ema", "wide"), "--ema"),
    "EMA out of range": (sample("7", "--ema", "0.9"), "--ema"),
    # judging and plotting
    "eval of nothing": (lambda p: ["eval"], "RUN"),
    "eval of an empty folder": (lambda p: ["eval", p.tmp, "--cache", p.tmp / "c"], "no run or model"),
    "eval of images without references": (lambda p: ["eval", "--images", p.tmp], "--references"),
    "eval of empty image folders": (
        lambda p: ["eval", "--images", _dir(p, "a"), "--references", _dir(p, "b"), "--cache", p.tmp / "c"],
        "a|b",
    ),
    "compare nothing": (lambda p: ["compare", p.tmp], "two or more|no evaluation"),
    "plot of no run": (lambda p: ["plot", "training", p.tmp], "metrics|run"),
}  # fmt: skip


def _dir(place: Place, name: str) -> Path:
    (place.tmp / name).mkdir(exist_ok=True)
    return place.tmp / name


def _gzip_cut(place: Place) -> list[Any]:
    folder = place.idx()
    plain = folder / "train-images-idx3-ubyte"
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(os.urandom(8) + plain.read_bytes())[:60])
    plain.unlink()
    return ["train", place.recipe, "data.kind=idx", f"data.path={folder}", "--out", place.tmp / "out"]


@pytest.fixture
def place(tmp_path: Path, recipe_file: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Place:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LIMNER_CACHE", str(cache))
    return Place(tmp_path / "here", recipe_file, trained)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_request_is_answered_in_words(
    name: str, place: Place, error: Callable[..., str], trained: Path, snapshot: Any
) -> None:
    make, culprit = CASES[name]
    before = snapshot(trained)
    words = error(*make(place))
    assert re.search(culprit, words, re.DOTALL), words
    assert max(map(len, words.splitlines())) < 6000
    assert snapshot(trained) == before
    assert not list(place.tmp.glob("out/*")), "something was written for a request that was refused"


def test_there_are_fifty() -> None:
    assert len(CASES) >= 50


REAL = ["unknown recipe", "recipe is binary", "unknown key", "existing run without --resume", "weights with one bit flipped"]


@pytest.mark.parametrize("name", REAL)
def test_a_wrong_request_in_a_process_of_its_own(name: str, place: Place, nursery: Any) -> None:
    make, culprit = CASES[name]
    done = nursery.start(*make(place)).wait()
    assert done.code == 2 and "Traceback" not in done.err and 1 <= len(done.err.splitlines()) <= 10
    assert re.search(culprit, done.err, re.DOTALL) and done.out == ""


def test_a_run_is_left_as_it_is_when_another_recipe_wants_to_go_on_with_it(
    place: Place, error: Callable[..., str], snapshot: Any
) -> None:
    run = place.unfinished()
    before = snapshot(run)
    error("train", place.recipe, "--out", run, "--resume", "network.blocks=2")
    assert snapshot(run) == before


def test_debug_shows_the_traceback(place: Place, limner: Any) -> None:
    from limner.errors import ConfigError

    with pytest.raises(ConfigError):
        limner("--debug", "train", "digts")
    with pytest.raises(ConfigError):
        limner("train", "digts", "--debug")


def test_a_full_standard_output_is_an_error_and_no_traceback(place: Place) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "limner", "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and "Traceback" not in done.stderr and "No space left" in done.stderr


def test_a_reader_that_goes_away_is_no_error(place: Place) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "limner", "--help"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert "Traceback" not in done.stderr
