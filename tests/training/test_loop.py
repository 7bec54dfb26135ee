"""The training loop: exact resume, equal batches, budgets, bad numbers, and a log that reads as if nothing ever happened."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limner.errors import CheckpointError, ConfigError, NumericalError
from limner.files import read_metrics
from limner.training import checkpoint, loop
from limner.training.loop import Session, learning_rate, train

STEPS, BATCH = 24, 18
SMALL = ("train.batch=18", "train.images=432", "train.snapshots=2", "train.previews=0", "train.log_images=54")
EACH = "train.checkpoint_images=18"


def state(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every tensor file of the newest checkpoint, of the model's weights, and the step."""
    folder, notices = checkpoint.latest(run)
    assert folder is not None and not notices
    files = [*sorted(folder.glob("*.safetensors")), run / "model" / "weights.safetensors"]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found | {"step": folder.name}


def through(recipe: Any, run: Path, cache: Path, *, steps: int | None = None, resume: bool = False) -> list[list[int]]:
    """Train, at most `steps` steps, and return the ids of each step."""
    found: list[list[int]] = []
    if steps == 0:
        return found
    logs = train(recipe, run, cache=cache, resume=resume)
    for log in logs:
        found.append(list(log.ids))
        if len(found) == steps:
            break
    logs.close()
    return found


@pytest.fixture(scope="module")
def whole(make_recipe: Callable[..., Any], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return whole(accumulate) -> (run, ids) of an uninterrupted run of 24 steps over three epochs, made once."""
    made: dict[int, Any] = {}

    def get(accumulate: int) -> tuple[Path, list[list[int]]]:
        if accumulate not in made:
            run = tmp_path_factory.mktemp("whole") / "run"
            recipe = make_recipe(*SMALL, f"train.accumulate={accumulate}", "train.checkpoint_images=72", "train.keep=9")
            made[accumulate] = (run, through(recipe, run, cache))
        return made[accumulate]

    return get


# ---------------------------------------------------------------------------------------------------- resuming


def test_the_run_walks_through_three_epochs_and_misses_no_image(whole: Any, make_recipe: Any, cache: Path) -> None:
    _, ids = whole(1)
    images = make_recipe().data.open(cache).split("train")
    flat = np.concatenate(ids)
    assert len(ids) == STEPS and len(flat) >= 3 * len(images)
    for epoch in range(3):
        assert sorted(flat[epoch * len(images) : (epoch + 1) * len(images)]) == images.tolist()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_interrupted_after_every_step_ends_bit_identical(
    accumulate: int, whole: Any, make_recipe: Any, cache: Path, tmp_path: Path
) -> None:
    """Weights, averages and optimizer are compared by SHA-256; each next batch by its ids."""
    reference, ids = whole(accumulate)
    run = tmp_path / "run"
    recipe = make_recipe(*SMALL, f"train.accumulate={accumulate}", EACH)
    found = []
    for _ in range(STEPS):
        found += through(recipe, run, cache, steps=1, resume=True)
    assert found == ids
    assert state(run) == state(reference)


def test_resuming_twice_from_the_same_checkpoint_gives_the_same_run(
    whole: Any, make_recipe: Any, cache: Path, tmp_path: Path
) -> None:
    reference, ids = whole(1)
    for name in ("a", "b"):
        run = tmp_path / name
        shutil.copytree(reference, run)
        for step in checkpoint.steps(run):
            if step > 12:
                shutil.rmtree(checkpoint.folder_of(run, step))
        (run / "finished.json").unlink()
        assert through(make_recipe(*SMALL), run, cache, resume=True) == ids[12:]
        assert state(run) == state(reference)


def test_metrics_read_after_resuming_as_if_the_run_had_never_stopped(
    whole: Any, make_recipe: Any, cache: Path, tmp_path: Path
) -> None:
    """Stopped in the middle of a window of metrics, and with lines beyond the checkpoint, one of them torn."""
    reference, _ = whole(1)
    run = tmp_path / "run"
    through(make_recipe(*SMALL, "train.checkpoint_images=72"), run, cache, steps=11)  # the checkpoint is of step 8
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 0.')
    through(make_recipe(*SMALL), run, cache, resume=True)
    clock = {"seconds", "images_per_second"}
    lines = [
        [{k: v for k, v in line.items() if k not in clock and "/" not in k} for line in read_metrics(p / "metrics.jsonl")]
        for p in (reference, run)
    ]
    assert lines[0] == lines[1]


def test_a_stop_leaves_no_line_in_the_metrics_that_an_unstopped_run_would_not_have(
    whole: Any, make_recipe: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    run = tmp_path / "run"
    for log in train(make_recipe(*SMALL), run, cache=cache):
        if log.step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
    assert log.stopped == "SIGUSR1" and log.step == 5
    through(make_recipe(*SMALL), run, cache, resume=True)
    steps = [[line["step"] for line in read_metrics(p / "metrics.jsonl")] for p in (whole(1)[0], run)]
    assert steps[0] == steps[1]


def test_a_run_killed_between_its_last_checkpoint_and_its_model_is_finished_by_resuming(
    whole: Any, make_recipe: Any, cache: Path, tmp_path: Path
) -> None:
    reference, _ = whole(1)
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    shutil.rmtree(run / "model")
    (run / "finished.json").unlink()
    through(make_recipe(*SMALL), run, cache, resume=True)
    assert state(run) == state(reference)
    assert json.loads((run / "finished.json").read_text())["step"] == STEPS


def test_a_kill_between_the_two_renames_of_the_model_loses_no_model(
    trained: Path, run: Path, make_recipe: Any, cache: Path
) -> None:
    (run / "model").rename(run / ".model.12345678.old")
    (run / ".model.87654321.tmp").mkdir()
    (run / ".metrics.jsonl.12345678.tmp").write_text("half")
    through(make_recipe(), run, cache, resume=True)
    assert (run / "model" / "weights.safetensors").read_bytes() == (trained / "model" / "weights.safetensors").read_bytes()
    assert not list(run.glob(".*"))


def test_resuming_with_another_geometry_is_refused_in_words(run: Path, make_recipe: Any, cache: Path) -> None:
    with pytest.raises((CheckpointError, ConfigError), match="step-00000030"):
        through(make_recipe("network.widths=[16, 16]", "train.images=4800"), run, cache, resume=True)


def test_a_damaged_checkpoint_is_passed_over_and_said_so(whole: Any, make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    reference, _ = whole(1)
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    damaged = checkpoint.folder_of(run, STEPS) / "optimizer.safetensors"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    logs = list(train(make_recipe(*SMALL), run, cache=cache, resume=True))
    notices = " ".join(logs[0].notices)
    assert "optimizer.safetensors" in notices and "damaged" in notices and "going on from step 20" in notices
    assert logs[-1].finished and state(run) == state(reference)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_silently_started_over(
    run: Path, make_recipe: Any, cache: Path, snapshot: Any
) -> None:
    for step in checkpoint.steps(run):
        (checkpoint.folder_of(run, step) / "state.json").write_text("{}")
    before = snapshot(run)
    with pytest.raises(CheckpointError, match=r"state\.json.*damaged"):
        through(make_recipe(), run, cache, resume=True)
    assert snapshot(run) == before


def test_snapshots_of_a_discarded_future_do_not_mix_with_those_of_the_new_one(run: Path, make_recipe: Any, cache: Path) -> None:
    """With a budget in seconds the steps after a resume differ: averages of two futures must not be mixed."""
    for step in checkpoint.steps(run):
        if step > 10:
            shutil.rmtree(checkpoint.folder_of(run, step))
    (run / "snapshots" / "step-00000015").rename(run / "snapshots" / "step-00000017")
    through(make_recipe(), run, cache, resume=True, steps=3)
    assert not checkpoint.snapshots(run)


# ---------------------------------------------------------------------------------------------------- one step


def session(recipe: Any, tmp_path: Path, cache: Path) -> Session:
    return Session(recipe, tmp_path / "run", cache=cache, resume=False)


def wake(found: Session) -> None:
    """Give the layers that start at zero some weight, so that gradients flow everywhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in found.parameters:
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)


def test_accumulated_gradients_equal_those_of_the_whole_batch(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    gradients = []
    for accumulate in (1, 3, 18):
        one = session(make_recipe(*SMALL, f"train.accumulate={accumulate}", "train.clip=1e9"), tmp_path, cache)
        wake(one)
        ids, bins, norm = one._train_step(0.0)
        gradients.append((torch.cat([p.grad.flatten() for p in one.parameters if p.grad is not None]), ids.tolist(), bins, norm))
    for other in gradients[1:]:
        assert other[1] == gradients[0][1]
        assert (other[0] - gradients[0][0]).abs().max() < 2e-6 * gradients[0][0].abs().max() + 1e-7
        assert (other[2] - gradients[0][2]).abs().max() < 1e-4
        assert abs(other[3] / gradients[0][3] - 1) < 1e-5


def test_the_gradient_norm_is_clipped(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    one = session(make_recipe("train.clip=0.001"), tmp_path, cache)
    wake(one)
    norm = one._train_step(0.0)[2]
    after = torch.cat([p.grad.flatten() for p in one.parameters if p.grad is not None]).norm()
    assert norm > 0.001 and abs(after - 0.001) < 1e-6


def test_the_share_of_dropped_captions_is_what_was_asked(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    one = session(make_recipe("train.drop=0.25"), tmp_path, cache)
    dropped = 0
    for first in range(0, 2000, 100):
        positions = range(first, first + 100)
        dropped += loop.collate(one.store, one.model.codec, one.recipe.train, one.order[positions], positions, (1, 28, 28))[
            3
        ].count("")
    assert abs(dropped / 2000 - 0.25) < 0.04


def test_flips_and_shifts_move_pixels_and_change_nothing_else(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    one = session(make_recipe("train.flip=true", "train.shift=2"), tmp_path, cache)
    ids, positions = one.order[range(40)], range(40)
    plain = one.recipe.train.model_copy(update={"flip": False, "shift": 0})
    moved, eps, u, captions = loop.collate(one.store, one.model.codec, one.recipe.train, ids, positions, (1, 28, 28))
    still, eps2, u2, captions2 = loop.collate(one.store, one.model.codec, plain, ids, positions, (1, 28, 28))
    assert torch.equal(eps, eps2) and torch.equal(u, u2) and captions == captions2
    padded = torch.nn.functional.pad(still, (2, 2, 2, 2), mode="replicate")
    seen = set()
    for i in range(40):
        options = {
            (flip, dy, dx): (padded[i].flip(-1) if flip else padded[i])[:, dy : dy + 28, dx : dx + 28]
            for flip in (0, 1) for dy in range(5) for dx in range(5)
        }  # fmt: skip
        hits = [key for key, value in options.items() if torch.equal(value, moved[i])]
        assert hits
        seen |= set(hits)
    assert {flip for flip, _, _ in seen} == {0, 1} and {dy for _, dy, _ in seen} == {dx for _, _, dx in seen} == set(range(5))


# ---------------------------------------------------------------------------------------------------- budgets


def test_the_budget_in_images_is_met_exactly(trained: Path) -> None:
    lines = list(read_metrics(trained / "metrics.jsonl"))
    assert lines[-1]["step"] == 30 and lines[-1]["images"] == 480 and lines[-1]["budget"] == 1
    assert json.loads((trained / "finished.json").read_text())["images"] == 480


def test_the_budget_in_seconds_ends_the_run_and_the_decay(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    overrides = (
        "train.images=null",
        "train.seconds=0.8",
        "train.log_images=16",
        "train.snapshots=0",
        "train.checkpoint_images=null",
    )
    logs = list(train(make_recipe(*overrides, "train.previews=0"), tmp_path / "run", cache=cache))
    assert logs[-1].finished and logs[-1].seconds >= 0.8
    assert all(log.seconds < 0.8 for log in logs[:-1])
    rates = [log.numbers["learning_rate"] for log in logs]
    before = [0.0, *(log.budget for log in logs)]
    factors = [learning_rate(make_recipe(*overrides).train, k, b) for k, b in enumerate(before[:-1])]
    assert np.allclose(rates, np.array(factors) * 2e-3)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_learning_rate_rises_over_the_warm_up_and_ends_at_zero(decay: str, make_recipe: Any) -> None:
    train = make_recipe(f"train.decay={decay}", "train.warmup=100").train
    factors = [learning_rate(train, step, step / 1000) for step in range(1001)]
    assert np.allclose(factors[:3], [0.01, 0.02, 0.03], rtol=0.01)
    assert all(a < b for a, b in itertools.pairwise(factors[:91]))
    assert all(a > b for a, b in itertools.pairwise(factors[100:]))
    assert abs(factors[-1]) < 1e-12


def test_a_constant_learning_rate_stays(make_recipe: Any) -> None:
    train = make_recipe("train.decay=constant", "train.warmup=0").train
    assert {learning_rate(train, step, step / 10) for step in range(11)} == {1.0}


def test_a_batch_that_does_not_divide_is_refused_with_what_would(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        session(make_recipe("train.accumulate=3"), tmp_path, cache)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------- bad numbers


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_step_and_names_step_and_images(
    what: str, make_recipe: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real, calls = loop.Learner.forward, [0]

    def poisoned(self: Any, *arguments: Any) -> torch.Tensor:
        calls[0] += 1
        losses = real(self, *arguments)
        if calls[0] == 6 and what == "loss":
            return losses * math.nan
        if calls[0] == 6:
            losses.register_hook(lambda g: g * math.inf)
        return losses

    monkeypatch.setattr(loop.Learner, "forward", poisoned)
    recipe = make_recipe(*SMALL, EACH)
    ids: list[Any] = []
    with pytest.raises(NumericalError) as error:
        for log in train(recipe, run, cache=cache):
            ids.append(log.ids)
    following = loop.Order(recipe.data.open(cache).split("train"), 0)[range(5 * BATCH, 6 * BATCH)]
    assert "step 6" in str(error.value) and ", ".join(map(str, following[:16])) in str(error.value)
    assert len(ids) == 5
    folder, notices = checkpoint.latest(run)
    assert folder == checkpoint.folder_of(run, 5) and not notices
    tensors, _ = checkpoint.load(folder)
    assert all(torch.isfinite(v).all() for named in tensors.values() for v in named.values())


# ---------------------------------------------------------------------------------------------------- looking


def test_the_held_out_loss_asks_the_same_questions_in_every_run(make_recipe: Any, cache: Path, tmp_path: Path, model: Any) -> None:
    """Another seed, batch, and augmentation: the same triples; and another few images than those trained on."""
    found = []
    for overrides in ((), ("train.seed=5", "train.batch=32", "train.flip=true", "train.shift=2", "train.drop=0.5")):
        one = session(make_recipe(*overrides), tmp_path, cache)
        one.shadow.load_state_dict(
            {f"text.{k}": v for k, v in model.text.state_dict().items()}
            | {f"network.{k}": v for k, v in model.network.state_dict().items()}
        )
        found.append(one._heldout(model))
        assert not set(one.store.split("judge")) & set(one.order.indices)
    assert found[0] == found[1]
    assert len(found[0]["heldout_bins"]) == loop.NUM_BINS


def test_few_held_out_images_leave_empty_bins_empty_and_the_log_valid_json(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    one = session(make_recipe("train.heldout=3"), tmp_path, cache)
    numbers = one._heldout(one.model)
    json.dumps(numbers, allow_nan=False)
    assert math.isfinite(numbers["heldout_loss"])


def test_training_lowers_the_held_out_loss_below_that_of_knowing_nothing(
    trained: Path, make_recipe: Any, cache: Path, tmp_path: Path
) -> None:
    one = session(make_recipe(), tmp_path, cache)  # an untrained network says 0 everywhere
    untrained = one._heldout(one.model)["heldout_loss"]
    assert list(read_metrics(trained / "metrics.jsonl"))[-1]["heldout_loss"] < 0.8 * untrained


def test_the_run_folder_holds_what_it_promises(trained: Path) -> None:
    found = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert found == {
        "config.yaml", "env.json", "metrics.jsonl", "finished.json", "samples/step-00000030.png",
        *(f"checkpoints/step-000000{n}/{name}" for n in (20, 30) for name in (
            "learner.safetensors", "ema-0.05.safetensors", "ema-0.10.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
        )),
        *(f"snapshots/step-000000{n}/ema-{width}.safetensors" for n in (15, 30) for width in ("0.05", "0.10")),
        *(f"model/{name}" for name in ("model.json", "weights.safetensors", "null.safetensors", "tokenizer.json", "words.json")),
    }  # fmt: skip


def test_every_line_of_metrics_is_complete(trained: Path) -> None:
    lines = list(read_metrics(trained / "metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(2, 31, 2))
    for line in lines:
        assert set(line) >= {"images", "seconds", "budget", "loss", "loss_bins", "grad_norm", "images_per_second", "learning_rate"}
        counted = [value for value in line["loss_bins"] if value is not None]
        assert min(counted) <= line["loss"] <= max(counted)


def test_two_averages_of_nearly_the_same_width_do_not_share_a_file(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    through(make_recipe("train.ema=[0.1, 0.101]", "train.images=32"), run, cache)
    folder, _ = checkpoint.latest(run)
    assert folder is not None and len(list(folder.glob("ema-*.safetensors"))) == 2
    assert {sigma for _, sigma, _ in checkpoint.snapshots(run)} == {0.1, 0.101}


def test_the_model_of_a_run_is_the_average_it_asked_for(trained: Path, model: Any) -> None:
    folder, _ = checkpoint.latest(trained)
    assert folder is not None
    tensors, _ = checkpoint.load(folder)
    for name, value in tensors["ema-0.10"].items():
        part, _, key = name.partition(".")
        assert torch.equal(getattr(model, part).state_dict()[key], value)


def test_tensorboard_gets_the_numbers_too(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    through(make_recipe("train.images=64", "train.trackers=[tensorboard]", "train.previews=0"), run, cache)
    assert list((run / "tensorboard").rglob("events.out.tfevents*"))


def test_an_unknown_tracker_is_refused_before_anything_is_written(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensorbored"):
        through(make_recipe("train.trackers=[tensorbored]"), tmp_path / "run", cache)
    assert not list((tmp_path / "run").rglob("*.jsonl"))
