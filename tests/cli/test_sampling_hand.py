"""What `limner sample` can do beyond prompts, and the verbs around it: pictures to start from, masks, paths, grids, sweeps, students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.int16)


def picture(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


RAMP = np.tile(np.linspace(0, 255, 28), (28, 1))


def test_the_weaker_the_strength_the_nearer_the_picture_to_where_it_started(limner: Any, trained: Path, tmp_path: Path) -> None:
    start = picture(tmp_path / "start.png", RAMP)
    distances = []
    for strength in ("0.05", "0.5", "1.0"):
        done = limner("sample", trained, "7", "--image", start, "--strength", strength, "--out", tmp_path / strength)
        assert done.code == 0, done.err
        distances.append(np.abs(pixels(tmp_path / strength / "00000.png") - RAMP).mean())
        line = json.loads((tmp_path / strength / "images.jsonl").read_text())
        assert line["image"] == "start.png" and line["strength"] == float(strength)
    assert distances[0] < 8 < distances[1] < distances[2]


def test_under_a_mask_the_black_part_is_kept_and_the_white_part_repainted(limner: Any, trained: Path, tmp_path: Path) -> None:
    mask = np.zeros((28, 28))
    mask[:, 14:] = 255
    files = ["--image", picture(tmp_path / "start.png", RAMP), "--mask", picture(tmp_path / "mask.png", mask)]
    done = limner("sample", trained, "7", *files, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    off = np.abs(pixels(tmp_path / "out" / "00000.png") - RAMP)
    assert off[:, :14].max() <= 1 and off[:, 14:].mean() > 10


def test_an_interpolation_begins_and_ends_as_its_prompts_alone(limner: Any, trained: Path, tmp_path: Path) -> None:
    words = ["--precision", "fp32", "--seed", "5"]
    assert limner("sample", trained, "7", "3", "--interpolate", "3", *words, "--out", tmp_path / "path").code == 0
    assert limner("sample", trained, "7", "3", *words, "--out", tmp_path / "ends").code == 0
    for made, alone in (("00000", "00000"), ("00002", "00001")):
        assert np.abs(pixels(tmp_path / "path" / f"{made}.png") - pixels(tmp_path / "ends" / f"{alone}.png")).max() <= 1


def test_a_trajectory_has_a_frame_for_every_step(limner: Any, trained: Path, tmp_path: Path) -> None:
    gif = tmp_path / "steps.gif"
    assert limner("sample", trained, "7", "--steps", "4", "--trajectory", gif, "--out", tmp_path / "out").code == 0
    with Image.open(gif) as image:
        shown = []
        for frame in range(image.n_frames):
            image.seek(frame)
            shown.append(np.asarray(image.convert("L")).tobytes())
    assert len(dict.fromkeys(shown)) == 4


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--mask", "m.png"], "--mask"),
        (["--interpolate", "3", "--num", "2"], "--interpolate"),
        (["--forever", "--trajectory", "a.gif"], "--forever"),
        (["--trajectory", "a.txt"], "a.txt"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    words: list[str], culprit: str, limner: Any, trained: Path, tmp_path: Path
) -> None:
    done = limner("sample", trained, "7", *words, "--out", tmp_path / "out")
    assert done.code == 2 and culprit in done.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["cfg-zero", "apg", "auto"])
def test_every_kind_of_guidance_changes_the_picture(kind: str, limner: Any, trained: Path, tmp_path: Path) -> None:
    words = ["sample", trained, "7", "--guidance", "20", "--precision", "fp32"]
    assert limner(*words, "--out", tmp_path / "cfg").code == 0
    assert limner(*words, "--guidance-kind", kind, "--out", tmp_path / kind).code == 0
    assert np.abs(pixels(tmp_path / "cfg" / "00000.png") - pixels(tmp_path / kind / "00000.png")).max() > 2
    assert json.loads((tmp_path / kind / "images.jsonl").read_text())["guidance_kind"] == kind


def test_raw_weights_and_other_widths_give_other_pictures(limner: Any, trained: Path, tmp_path: Path) -> None:
    for ema in ("0.05", "0.2", "raw"):
        assert limner("sample", trained, "7", "--ema", ema, "--out", tmp_path / ema).code == 0
    seen = {(tmp_path / ema / "00000.png").read_bytes() for ema in ("0.05", "0.2", "raw")}
    assert len(seen) == 3


def test_a_fitted_grid_is_used_for_sampling(limner: Any, run: Path, tmp_path: Path) -> None:
    done = limner("fit-grid", run, "--steps", "2", "--num", "8")
    assert done.code == 0, done.err
    grid = run / "grids" / "ab2-2.json"
    done = limner("sample", run, "7", "--grid", grid, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    line = json.loads((tmp_path / "out" / "images.jsonl").read_text())
    assert line["steps"] == 2 and line["grid"]["times"] == json.loads(grid.read_text())["grid"]["times"]


def test_a_sweep_names_the_best_of_its_points(limner: Any, run: Path, cache: Path) -> None:
    done = limner("sweep", run, "guidance=1,3", "ema=0.05,0.1", "--num", "20", "--cache", cache)
    assert done.code == 0, done.err
    document = json.loads((run / "evals" / "sweep-sweep.json").read_text())
    assert len(document["points"]) == 4 and document["best"] in document["points"]
    assert len({point["accuracy"] for point in document["points"]} | {point["frechet"] for point in document["points"]}) > 2


def test_a_student_is_distilled_and_sampled_in_two_evaluations(limner: Any, trained: Path, cache: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    done = limner("distill", trained, "--steps", "2", "--images", "256", "--cache", cache, "--out", student)
    assert done.code == 0, done.err
    assert limner("sample", student, "7", "--out", tmp_path / "out").code == 0
    line = json.loads((tmp_path / "out" / "images.jsonl").read_text())
    assert line["steps"] == 2 and line["guidance"] == 1


def test_a_sampler_of_ones_own_is_used_from_the_command_line_only(limner: Any, trained: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from limner.samplers import ddim\n\ndef mine(denoise, x, times, process, *, noise=None):\n"
        "    yield from ddim(denoise, x, times, process)\n"
    )
    words = ["sample", trained, "7", "--precision", "fp32"]
    done = limner(*words, "--sampler", f"{mine}:mine", "--out", tmp_path / "mine")
    assert done.code == 0, done.err
    assert limner(*words, "--sampler", "ddim", "--out", tmp_path / "ddim").code == 0
    assert (pixels(tmp_path / "mine" / "00000.png") == pixels(tmp_path / "ddim" / "00000.png")).all()
    done = limner("sweep", trained, f"sampler={mine}:mine")
    assert done.code == 2 and "names code in a file" in done.err
