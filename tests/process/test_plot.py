"""Pictures are written, as pictures, and say what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.errors import DataError
from limner.files import read_metrics
from limner.plot import plot_forward, plot_schedules, plot_training
from limner.process.schedules import Cosine


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        low, high = image.convert("L").getextrema()
        return image.width > 300 and low < 100 < 200 < high


def metrics(folder: Path, lines: list[str]) -> None:
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def line(i: int, **more: object) -> str:
    row = {"step": i, "images": 128 * i, "loss": 1 / (i + 1), "loss_bins": [0.1, None, 0.3], "grad_norm": 1.0}
    return json.dumps(row | {"learning_rate": 1e-3, "images_per_second": 800.0} | more)


def test_schedules_are_drawn(tmp_path: Path) -> None:
    (path,) = plot_schedules(tmp_path)
    assert path == tmp_path / "schedules.png"
    assert is_picture(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_forward_process_is_drawn(tmp_path: Path, channels: int) -> None:
    (path,) = plot_forward(tmp_path, torch.zeros(channels, 8, 8), processes={"cosine": Cosine()}, num_times=4)
    assert is_picture(path)


def test_an_image_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[1 or 3, H, W\]"):
        plot_forward(tmp_path, torch.zeros(2, 8, 8))


def test_a_training_run_is_drawn(tmp_path: Path) -> None:
    metrics(tmp_path, [line(i, **({"heldout_loss": 0.5} if i % 10 == 0 else {})) for i in range(50)])
    (path,) = plot_training(tmp_path)
    assert path == tmp_path / "training.png"
    assert is_picture(path)


def test_a_run_that_has_only_begun_is_drawn(tmp_path: Path) -> None:
    metrics(tmp_path, [json.dumps({"step": 1, "loss": 0.5})])
    assert is_picture(plot_training(tmp_path, out=tmp_path / "elsewhere")[0])


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    metrics(tmp_path, [line(0), line(1), '{"step": 2, "lo'])
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([json.dumps({"step": 1})], "no line has a loss"),
        (None, "no such file"),
    ],
)
def test_metrics_that_cannot_be_drawn_are_refused_in_words(tmp_path: Path, lines: list[str] | None, words: str) -> None:
    if lines is not None:
        metrics(tmp_path, lines)
    with pytest.raises(DataError, match=words):
        plot_training(tmp_path)
