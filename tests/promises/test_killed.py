"""Killed at any moment, stopped by a signal, or run by several processes: the run that comes out is the same run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from limner.files import read_metrics
from limner.training import checkpoint

OVERRIDES = ("train.images=480", "train.previews=1", "train.snapshots=3", "train.checkpoint_images=32", "train.keep=2")


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model" / "weights.safetensors").read_bytes()).hexdigest()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def command(recipe_file: Path, cache: Path) -> Callable[[Path], list[Any]]:
    """Return the command line of a run of 30 steps that saves every second one."""
    return lambda run: ["train", recipe_file, *OVERRIDES, "--out", run, "--resume", "--cache", cache]


@pytest.fixture(scope="module")
def uninterrupted(nursery: Any, command: Any, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run that nobody disturbed. (`trained` comes first: it fills the cache.)"""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = nursery.start(*command(run)).wait()
    assert done.code == 0, done.err
    return run


def saving(run: Path) -> bool:
    """Whether a save is under way right now."""
    return any((run / "checkpoints").glob(".*.tmp")) or any(run.glob(".model.*.tmp"))


def ordeal(run: Path, nursery: Any, command: Any, kills: int, seed: int) -> list[str]:
    """Kill -9 a run again and again, by turns at random moments and inside saves; then let it end. Return what was hit."""
    rng, hit = random.Random(seed), []
    for k in range(kills):
        before = checkpoint.steps(run)[-1:] or [0]
        child = nursery.start(*command(run))
        wanted = min(before[0] + 2 * rng.randrange(0, 4), 20)
        wait_for(lambda: (checkpoint.steps(run)[-1:] or [0])[0] >= wanted and (run / "config.yaml").exists())  # noqa: B023
        if k % 2:
            wait_for(lambda: saving(run) or (run / "finished.json").exists())
        else:
            time.sleep(rng.random() * 0.05)
        if (run / "finished.json").exists():  # it was faster than its killer
            child.wait()
            break
        child.send(signal.SIGKILL)
        code = child.wait().code
        hit.append(f"{code} {'in a save' if saving(run) else 'between saves'} after step {(checkpoint.steps(run)[-1:] or [0])[0]}")
        assert code in (-9, 0), hit
    done = nursery.start(*command(run)).wait()
    assert done.code == 0, done.err
    return hit


def same_run(a: Path, b: Path, *, cadence: bool = True) -> None:
    """Weights and checkpoint equal by SHA-256, and metrics read as if nothing had happened."""
    assert digest(a) == digest(b)
    for name in ("learner", "optimizer", "ema-0.05", "ema-0.10"):
        files = [checkpoint.folder_of(run, 30) / f"{name}.safetensors" for run in (a, b)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    clock = {"seconds", "images_per_second"}
    lines = [
        [{k: v for k, v in line.items() if k not in clock and "/" not in k} for line in read_metrics(run / "metrics.jsonl")]
        for run in (a, b)
    ]
    assert lines[0] == lines[1]
    names = [{str(p.relative_to(run)) for p in run.rglob("*")} for run in (a, b)]
    assert names[0] == names[1] or not cadence  # no leftovers either


def test_three_kills_change_nothing(nursery: Any, command: Any, uninterrupted: Path, tmp_path: Path) -> None:
    hit = ordeal(tmp_path / "run", nursery, command, kills=3, seed=0)
    same_run(uninterrupted, tmp_path / "run")
    assert any("in a save" in what for what in hit), hit


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_kills_change_nothing(seed: int, nursery: Any, command: Any, uninterrupted: Path, tmp_path: Path) -> None:
    ordeal(tmp_path / "run", nursery, command, kills=10, seed=seed + 1)
    same_run(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_says_how_to_go_on_and_exits_75(
    number: signal.Signals, nursery: Any, command: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    lazy = [word for word in command(run) if word != "train.checkpoint_images=32"] + ["train.checkpoint_images=null"]
    child = nursery.start(*lazy)
    wait_for(lambda: len(list(read_metrics(run / "metrics.jsonl"))) >= 2)
    child.send(number)
    done = child.wait(60)
    assert done.code == 75, done.err
    assert f"stopped by {number.name}" in done.err and f"limner train {run} --resume" in done.err
    seen = list(read_metrics(run / "metrics.jsonl"))[-1]["step"]
    saved = checkpoint.steps(run)
    assert len(saved) == 1 and seen <= saved[0] <= seen + 2 < 30
    assert nursery.start("train", run, "--resume", "--cache", command(run)[-1]).wait().code == 0
    assert digest(run) == digest(uninterrupted)


def test_a_signal_before_the_first_step_is_heard_after_it(nursery: Any, command: Any, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = nursery.start(*command(run))
    wait_for(lambda: (run / "config.yaml").exists())
    child.send(signal.SIGTERM)
    assert child.wait(60).code == 75
    assert nursery.start(*command(run)).wait().code == 0
    same_run(uninterrupted, run, cadence=False)  # checkpoints are due so many images after the last one, which was this stop's


def test_a_finished_run_says_so_and_is_left_as_it_is(limner: Any, uninterrupted: Path, command: Any, snapshot: Any) -> None:
    before = snapshot(uninterrupted)
    done = limner(*command(uninterrupted))
    assert done.code == 0 and "finished already" in done.err
    assert snapshot(uninterrupted) == before


# ---------------------------------------------------------------------------------------------------- several processes


def ranks(world: int) -> list[dict[str, str]]:
    """Return the environment of each process, as torchrun and accelerate set it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def walk(nursery: Any, recipe_file: Path, cache: Path, run: Path, folder: Path, worlds: list[tuple[int, int]]) -> list[list[int]]:
    """Train through (number of processes, steps) after one another; return the global batch of each step."""
    batches: list[list[int]] = []
    for phase, (world, steps) in enumerate(worlds):
        files = [folder / f"{phase}-{rank}.json" for rank in range(world)]
        children = [
            nursery.start(
                "train.images=192", "train.checkpoint_images=64", "train.previews=0",
                env=env if world > 1 else {}, ids=str(file), recipe=str(recipe_file), run=str(run), cache=str(cache), steps=steps,
            )
            for env, file in zip(ranks(world), files, strict=True)
        ]  # fmt: skip
        for child in children:
            done = child.wait()
            assert done.code == 0, done.err
        parts = [json.loads(file.read_text()) for file in files]
        batches += [[i for part in parts for i in part[k][1]] for k in range(steps)]
    return batches


def test_one_two_and_changing_numbers_of_processes_see_the_same_global_batches_and_end_alike(
    nursery: Any, recipe_file: Path, cache: Path, trained: Path, tmp_path: Path
) -> None:
    found, weights = [], []
    for name, worlds in {"1": [(1, 12)], "2": [(2, 12)], "1-2-1": [(1, 4), (2, 4), (1, 4)]}.items():
        folder = tmp_path / name
        folder.mkdir()
        found.append(walk(nursery, recipe_file, cache, folder / "run", folder, worlds))
        weights.append(load_file(folder / "run" / "model" / "weights.safetensors"))
    assert len(found[0]) == 12 and found[0] == found[1] == found[2]
    for other in weights[1:]:
        assert max(float((other[key] - value).abs().max()) for key, value in weights[0].items()) < 1e-5


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(
    nursery: Any, command: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    children = [nursery.start(*command(run), env=env) for env in ranks(2)]
    wait_for(lambda: checkpoint.steps(run))
    children[1].send(signal.SIGUSR1)
    outcomes = [child.wait(60) for child in children]
    assert [done.code for done in outcomes] == [75, 75], outcomes
    assert "Go on with" in outcomes[0].err
    assert checkpoint.latest(run)[1] == []


@pytest.mark.slow
def test_accelerate_launch_trains_on_two_processes(recipe_file: Path, cache: Path, trained: Path, tmp_path: Path) -> None:
    accelerate = shutil.which("accelerate", path=str(Path(sys.executable).parent))
    assert accelerate
    launch = [
        accelerate,
        "launch",
        "--num_processes",
        "2",
        "--cpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    arguments = ["-m", "limner", "train", str(recipe_file), "--out", str(tmp_path / "run"), "--cache", str(cache)]
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["provenance"]["processes"] == 2
    a, b = (load_file(run / "model" / "weights.safetensors") for run in (trained, tmp_path / "run"))
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-4
    assert torch.isfinite(torch.cat([value.flatten() for value in b.values()])).all()
