"""The verbs do what their help says, and every one of them has help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from PIL import Image

from limner.cli import app
from limner.generate import read_facts


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every verb, groups included."""
    command = command or typer.main.get_command(app)
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*path, name))


ALL = list(verbs())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_verb_has_help(words: tuple[str, ...], limner: Any) -> None:
    done = limner(*words, "--help")
    assert done.code == 0 and "usage: limner " in done.out.lower() + " " and done.err == ""


def test_options_are_found() -> None:
    command: Any = typer.main.get_command(app)
    assert sum(parameter.param_type_name == "option" for parameter in command.commands["sample"].params) > 20


@pytest.mark.parametrize("words", [words for words in ALL if words], ids=" ".join)
def test_every_option_and_verb_says_what_it_is(words: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name


def test_the_verbs_of_the_issue_are_there() -> None:
    names = {words[0] for words in ALL if words}
    assert names >= {"recipes", "train", "sample", "eval", "plot", "doctor", "check", "data", "compare"}


def test_without_a_verb_the_help_is_shown(limner: Any) -> None:
    done = limner()
    assert "limner train digits" in done.out + done.err


def test_help_comes_at_once() -> None:
    """Within ten times the time of `python -c pass`: the best of three, run by turns."""

    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - start

    pairs = [(seconds("-c", "pass"), seconds("-m", "limner", "--help")) for _ in range(3)]
    assert min(b for _, b in pairs) < 10 * min(a for a, _ in pairs) + 0.1


def test_recipes_lists_each_with_time_and_hardware(limner: Any) -> None:
    done = limner("recipes")
    assert done.code == 0 and "digits\n" in done.out and "2 cores" in done.out


def test_a_dry_run_shows_the_resolved_recipe_and_writes_nothing(
    limner: Any, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = limner("train", recipe_file, "train.lr=2e-3", "--dry-run", "--out", tmp_path / "out")
    assert done.code == 0
    tree = yaml.safe_load(done.out[: done.out.index("\n\n")])
    assert tree["train"]["lr"] == 0.002 and tree["train"]["clip"] == 1.0
    assert not list(tmp_path.iterdir())


def test_sample_writes_what_the_issue_says(limner: Any, trained: Path, tmp_path: Path, model: Any) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("3\n\na handwritten digit 7\n")
    out = tmp_path / "out"
    arguments = ["sample", trained, "8", "--prompts", prompts, "--num", 2, "--steps", 2, "--guidance", 1.5, "--sampler", "heun"]
    done = limner(*arguments, "--seed", 9, "--batch-size", 4, "--precision", "fp32", "--out", out)
    assert done.code == 0 and done.out.strip() == str(out), done.err
    lines = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["8", "8", "3", "3", "a handwritten digit 7", "a handwritten digit 7"]
    assert [line["seed"] for line in lines] == list(range(9, 15))
    for line in lines:
        assert (line["sampler"], line["steps"], line["guidance"], line["model"]) == ("heun", 2, 1.5, model.sha256)
        assert read_facts(out / line["file"]) == line
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 56 and grid.height > 3 * 56


def test_an_image_of_a_batch_equals_the_single_run_with_its_seed(limner: Any, trained: Path, tmp_path: Path) -> None:
    import numpy as np

    common = ["sample", trained, "3", "--steps", 2, "--precision", "fp32"]
    assert limner(*common, "--num", 4, "--seed", 20, "--out", tmp_path / "many").code == 0
    assert limner(*common, "--num", 1, "--seed", 22, "--out", tmp_path / "one").code == 0
    many, one = (np.asarray(Image.open(path), int) for path in (tmp_path / "many" / "00002.png", tmp_path / "one" / "00000.png"))
    assert np.abs(many - one).max() <= 1


def test_the_guidance_convention_of_others_is_translated(limner: Any, trained: Path, tmp_path: Path) -> None:
    done = limner(
        "sample", trained, "3", "--steps", 1, "--guidance", 1, "--guidance-convention", "plus-one", "--out", tmp_path / "out"
    )
    assert done.code == 0 and json.loads((tmp_path / "out" / "images.jsonl").read_text())["guidance"] == 2.0


def test_metadata_can_be_left_out(limner: Any, trained: Path, tmp_path: Path) -> None:
    assert limner("sample", trained, "3", "--steps", 1, "--no-metadata", "--out", tmp_path / "out").code == 0
    assert read_facts(tmp_path / "out" / "00000.png") is None


def test_another_ema_width_and_the_raw_weights_can_be_sampled(limner: Any, trained: Path, tmp_path: Path, snapshot: Any) -> None:
    before = snapshot(trained)
    images = {}
    for ema in ("0.05", "0.15", "raw"):
        done = limner("sample", trained, "3", "--steps", 1, "--ema", ema, "--out", tmp_path / ema)
        assert done.code == 0, done.err
        images[ema] = (tmp_path / ema / "00000.png").read_bytes()
    assert len(set(images.values())) == 3
    assert snapshot(trained) == before


def test_a_run_is_trained_told_about_and_named_in_the_end(
    limner: Any, recipe_file: Path, cache: Path, tmp_path: Path, trained: Path
) -> None:
    run = tmp_path / "run"
    done = limner("train", recipe_file, "--out", run, "--cache", cache)
    assert done.code == 0 and done.out == ""
    assert "finished: 30 steps, 480 images" in done.err and f"limner sample {run}" in done.err
    assert (run / "model" / "weights.safetensors").read_bytes() == (trained / "model" / "weights.safetensors").read_bytes()


def test_the_default_folder_is_taken_once(
    limner: Any, recipe_file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert limner("train", recipe_file, "--cache", cache, "train.images=16", "train.previews=0").code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]
