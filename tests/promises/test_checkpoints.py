"""A checkpoint is whole or absent: damage of any kind is found, and a disk that refuses leaves the old one intact."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from limner.errors import CheckpointError
from limner.files import publish, remove_leftovers, write_text
from limner.model import load
from limner.training import checkpoint


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a run with two tiny checkpoints, of steps 1 and 2."""
    for step in (1, 2):
        generator = torch.Generator().manual_seed(step)
        tensors = {
            name: {"a": torch.randn(7, generator=generator), "b.c": torch.randn(3, 2, generator=generator)}
            for name in ("learner", "ema-0.05", "optimizer")
        }
        checkpoint.save(tmp_path, step, tensors, {"step": step, "images": 16 * step, "seconds": 0.5}, keep=5)
    return tmp_path


def test_a_saved_checkpoint_is_read_back_exactly(tmp_path: Path) -> None:
    tensors = {"learner": {"w": torch.randn(3, 4), "n": torch.tensor(7)}}
    folder = checkpoint.save(tmp_path, 12, tensors, {"step": 12}, keep=1)
    found, state = checkpoint.load(folder)
    assert state == {"step": 12} and torch.equal(found["learner"]["w"], tensors["learner"]["w"]) and found["learner"]["n"] == 7
    assert checkpoint.latest(tmp_path) == (folder, [])


def test_250_of_250_byte_flips_and_truncations_are_found(small: Path) -> None:
    """200 flips of one bit and 50 truncations, anywhere in any file, the manifest included."""
    folder = checkpoint.folder_of(small, 2)
    files, rng = sorted(folder.iterdir()), random.Random(0)
    missed = []
    for k in range(250):
        path = rng.choice(files)
        good = path.read_bytes()
        place = rng.randrange(len(good))
        if k < 200:
            bad = bytearray(good)
            bad[place] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
        else:
            path.write_bytes(good[:place])
        found, notices = checkpoint.latest(small)
        if found != checkpoint.folder_of(small, 1) or len(notices) != 1 or "step-00000002" not in notices[0]:
            missed.append((path.name, place, k))
        path.write_bytes(good)
    assert not missed
    assert checkpoint.latest(small) == (folder, [])


def test_every_byte_of_the_manifest_counts(small: Path) -> None:
    folder = checkpoint.folder_of(small, 2)
    path = folder / "manifest.json"
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            checkpoint.verify(folder)
        path.write_bytes(good[:place])
        with pytest.raises(CheckpointError):
            checkpoint.verify(folder)
    path.write_bytes(good)
    checkpoint.verify(folder)


def test_a_missing_and_a_foreign_file_are_found(small: Path) -> None:
    folder = checkpoint.folder_of(small, 2)
    shutil.copy(folder / "optimizer.safetensors", folder / "ema-0.10.safetensors")
    with pytest.raises(CheckpointError, match=r"ema-0\.10"):
        checkpoint.verify(folder)
    (folder / "ema-0.10.safetensors").unlink()
    (folder / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="optimizer"):
        checkpoint.verify(folder)


def test_old_checkpoints_are_pruned_and_only_after_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, {"learner": {"w": torch.ones(2)}}, {"step": step}, keep=2)
    assert checkpoint.steps(tmp_path) == [4, 5]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.save(tmp_path, 6, {"learner": {"w": torch.ones(2)}}, {"step": 6}, keep=1)
    assert checkpoint.steps(tmp_path) == [4, 5]
    assert checkpoint.latest(tmp_path)[0] == checkpoint.folder_of(tmp_path, 5)


def test_going_on_from_an_older_checkpoint_prunes_the_damaged_newer_one_and_not_the_good(small: Path) -> None:
    """Step 9 is damaged, the run went on from 2 and saves 3: what stays must be 3 and not 9."""
    shutil.copytree(checkpoint.folder_of(small, 2), checkpoint.folder_of(small, 9))
    (checkpoint.folder_of(small, 9) / "state.json").write_text("{}")
    checkpoint.save(small, 3, {"learner": {"w": torch.ones(2)}}, {"step": 3}, keep=1)
    assert checkpoint.steps(small) == [3]
    assert checkpoint.latest(small) == (checkpoint.folder_of(small, 3), [])


def test_leftovers_of_a_killed_save_are_removed_and_a_half_renamed_folder_comes_back(small: Path) -> None:
    parent = small / "checkpoints"
    (parent / ".step-00000003.aaaaaaaa.tmp").mkdir()
    checkpoint.folder_of(small, 2).rename(parent / ".step-00000002.bbbbbbbb.old")
    (small / ".model.cccccccc.tmp").mkdir()
    checkpoint.tidy(small)
    assert checkpoint.latest(small) == (checkpoint.folder_of(small, 2), [])
    assert not list(small.glob(".*"))
    assert sorted(path.name for path in parent.iterdir()) == ["step-00000001", "step-00000002"]


def test_looking_for_the_newest_checkpoint_disturbs_no_save_in_progress(small: Path) -> None:
    """`limner sample RUN --ema raw` reads checkpoints while the run is still writing them."""
    saving = small / "checkpoints" / ".step-00000003.aaaaaaaa.tmp"
    saving.mkdir()
    assert checkpoint.latest(small) == (checkpoint.folder_of(small, 2), [])
    assert saving.is_dir()


def test_a_failing_block_publishes_nothing_and_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    with publish(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), publish(folder) as temporary:
        (temporary / "a").write_text("new")
        raise RuntimeError("stop")
    assert (folder / "a").read_text() == "old" and os.listdir(tmp_path) == ["thing"]


def test_dev_full_leaves_the_old_checkpoint_and_names_the_folder(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def to_dev_full(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        with open("/dev/full", "wb") as file:
            file.write(path.read_bytes())

    monkeypatch.setattr(checkpoint, "save_file", to_dev_full)
    with pytest.raises(CheckpointError, match=r"step-00000003.*No space left on device"):
        checkpoint.save(small, 3, {"learner": {"w": torch.ones(2)}}, {"step": 3}, keep=1)
    assert checkpoint.latest(small) == (checkpoint.folder_of(small, 2), [])
    assert not list((small / "checkpoints").glob(".*"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return mount(size) -> a tmpfs of that size."""
    mounted = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode()[:200]}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk_leaves_the_old_checkpoint_intact_with_a_clear_error(tiny_disk: Callable[[str], Path]) -> None:
    disk = tiny_disk("1m")
    tensors = {"learner": {"w": torch.randn(60_000)}}  # 240 kB
    checkpoint.save(disk, 1, tensors, {"step": 1}, keep=9)
    with pytest.raises(CheckpointError) as error:
        for step in range(2, 9):
            checkpoint.save(disk, step, tensors, {"step": step}, keep=9)
    assert "No space left on device" in str(error.value) and f"{disk}/checkpoints/step-" in str(error.value)
    newest = checkpoint.steps(disk)[-1]
    assert newest >= 2 and checkpoint.latest(disk) == (checkpoint.folder_of(disk, newest), [])
    assert not list((disk / "checkpoints").glob(".*"))


def test_a_run_on_a_disk_that_fills_up_ends_with_words_and_goes_on_when_there_is_room(
    tiny_disk: Callable[[str], Path], error: Callable[..., str], limner: Any, recipe_file: Path, cache: Path, trained: Path
) -> None:
    disk = tiny_disk("8m")
    filler = disk / "filler"
    run, arguments = disk / "run", ("--cache", cache, "train.checkpoint_images=16", "train.previews=0")
    filler.write_bytes(bytes(7_000_000))
    words = error("train", recipe_file, "--out", run, *arguments)
    assert "No space left on device" in words and str(disk) in words
    step = checkpoint.steps(run)
    assert step and checkpoint.latest(run) == (checkpoint.folder_of(run, step[-1]), [])
    filler.unlink()
    assert limner("train", recipe_file, "--out", run, "--resume", *arguments).code == 0
    assert (run / "model" / "weights.safetensors").read_bytes() == (trained / "model" / "weights.safetensors").read_bytes()


def test_small_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"a\.json.*No space left"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


# ---------------------------------------------------------------------------------------------------- the model folder


def test_damage_to_any_file_beside_model_json_is_found_on_loading(run: Path) -> None:
    """Every file of the folder, a bit flipped in its middle, cut in half, and missing."""
    files = sorted(path for path in (run / "model").iterdir() if path.name != "model.json")  # which is for people to edit
    assert len(files) == 4
    for path in files:
        good = path.read_bytes()
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 1
        for bad in (bytes(flipped), good[: len(good) // 2], None):
            path.unlink()
            if bad is not None:
                path.write_bytes(bad)
            with pytest.raises(CheckpointError, match=path.stem):
                load(run, precision="fp32")
        path.write_bytes(good)
    load(run, precision="fp32")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 99}, "format 99"),
        ({"codec": {"kind": ["pixels"]}}, "kind"),
        ({"codec": "pixles"}, "pixles"),
        ({"size": "big"}, "size"),
        ({"network": {"kind": "unet", "widths": [8, 8], "head_width": 8}}, "weights"),
        ({"labels": 3}, "labels"),
        ({"weights_sha256": None}, "SHA-256"),
        ({"weights_sha256": 5}, "SHA-256"),
        ({"unheard": 1}, "unheard"),
    ],
)
def test_a_model_json_with_wrong_facts_is_refused_in_words(run: Path, changes: dict[str, Any], named: str) -> None:
    path = run / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=named):
        load(run, precision="fp32")


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "", "\x00", "{", "[" * 100_000])
@pytest.mark.parametrize("name", ["model.json", "words.json", "tokenizer.json"])
def test_json_that_is_something_else_is_refused_in_words(run: Path, name: str, content: str) -> None:
    (run / "model" / name).write_text(content)
    with pytest.raises(CheckpointError):
        load(run, precision="fp32")


def test_leftovers_are_recognised_by_their_names_only(tmp_path: Path) -> None:
    for name in (".hidden", ".env", "notes.tmp", "a.old"):
        (tmp_path / name).write_text("mine")
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_somebody_elses_hidden_temporary_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".draft.tmp").write_text("mine")
    remove_leftovers(tmp_path)
    assert (tmp_path / ".draft.tmp").exists()
