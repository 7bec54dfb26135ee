"""What `limner train` does around the loop: run folders, resuming, progress on the terminal, and the words at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from limner import plan as planning
from limner import recipe as recipes
from limner.allocator import keep_freed_memory
from limner.config import own_code, read_yaml
from limner.errors import ConfigError, LimnerError
from limner.recipe import Recipe

PLAIN_EVERY_SECONDS = 5.0


def dry_run(name: str, overrides: list[str]) -> str:
    """Return the resolved recipe and what it takes, as text."""
    recipe = recipes.find(name, overrides)
    return recipes.to_yaml(recipe) + "\n" + planning.describe(planning.plan(recipe))


def train(name: str, overrides: list[str], *, out: Path | None, resume: bool, cache: Path) -> bool:
    """Train a recipe into a run folder; return whether a signal stopped it before its budget's end.

    Raises: ConfigError when the folder is taken, or the run to resume has another recipe.
    """
    _ranks_from_slurm()
    _processes_from_accelerate()
    keep_freed_memory()
    if (Path(name) / "config.yaml").is_file() and out is None:
        out = Path(name)
        if not resume:
            raise ConfigError(f"{name} is a run. Go on with it: limner train {name} --resume")
    recipe = recipes.find(name, overrides)
    run = out or _free_folder(Path("runs") / recipe.name, resume)
    main = int(os.environ.get("RANK", "0")) == 0
    if (run / "finished.json").is_file() and resume:
        _same_recipe(recipe, run)
        if main:
            _say(f"{run} is finished already. Sample from it: limner sample {run} PROMPT")
        return False
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--out {run}: is a file, not a folder.")
    if resume and (run / "config.yaml").is_file():
        _same_recipe(recipe, run)
    elif not resume and run.is_dir() and any(run.iterdir()):
        raise ConfigError(f"--out {run}: there is something in this folder. Go on with its run: --resume. Or choose another --out.")
    planning.refuse_if_too_large(recipe, world=int(os.environ.get("WORLD_SIZE", "1")))

    from limner.training import loop  # torch and accelerate: after everything that can be refused without them

    started = run.is_dir()
    try:
        with own_code([recipe.sample.sampler]):  # a recipe may name a sampler of one's own, for the previews
            return _follow(loop.train(recipe, run, cache=cache, resume=resume), recipe, run, main)
    except LimnerError:
        if not started and main and run.is_dir() and not any(run.iterdir()):
            run.rmdir()
        raise


def _follow(logs: Iterator[Any], recipe: Recipe, run: Path, main: bool) -> bool:
    """Iterate the loop to its end, showing progress; return whether a signal stopped it."""
    shown = _bar if main and sys.stderr.isatty() else _plain
    if main:
        _say(f"training {recipe.name} -> {run}")
    last = None
    for last in shown(logs, main):
        for notice in last.notices if main else ():
            _say(notice)
    if last is None or not main:
        return bool(last and last.stopped)
    if last.stopped:
        _say(f"stopped by {last.stopped} at step {last.step}, {last.budget:.0%} of the budget; everything is saved.")
        _say(f"Go on with: limner train {run} --resume")
        return True
    _say(f"finished: {last.step} steps, {last.images} images, {last.seconds:.0f} s ({last.images / last.seconds:.0f} images/s)")
    _say(f"model: {run / 'model'}    next: limner sample {run} PROMPT   limner eval {run}")
    return False


def _plain(logs: Iterator[Any], main: bool) -> Iterator[Any]:
    """Pass logs on, writing a line every few seconds."""
    told = time.monotonic()
    numbers: dict[str, Any] = {}
    for log in logs:
        numbers |= log.numbers
        if main and "loss" in numbers and time.monotonic() - told >= PLAIN_EVERY_SECONDS:
            told = time.monotonic()
            _say(_line(log, numbers))
        yield log


def _bar(logs: Iterator[Any], main: bool) -> Iterator[Any]:
    """Pass logs on under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"))
    numbers: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        for log in logs:
            numbers |= log.numbers
            progress.update(task, completed=log.budget, description=_line(log, numbers) if "loss" in numbers else "starting")
            yield log


def _line(log: Any, numbers: dict[str, Any]) -> str:
    left = log.seconds * (1 / max(log.budget, 1e-9) - 1)
    heldout = f"  held-out {numbers['heldout_loss']:.4f}" if "heldout_loss" in numbers else ""
    return (
        f"step {log.step}  {log.budget:.0%}  loss {numbers['loss']:.4f}{heldout}  "
        f"{numbers['images_per_second']:.0f} images/s  {left:.0f} s left"
    )


def _free_folder(wanted: Path, resume: bool) -> Path:
    """Return `wanted`, or wanted-2, -3, ... when it is taken by a run and nothing is to be resumed."""
    if resume or not wanted.exists():
        return wanted
    return next(path for n in range(2, 10_000) if not (path := wanted.with_name(f"{wanted.name}-{n}")).exists())


def _same_recipe(recipe: Recipe, run: Path) -> None:
    """Raise ConfigError naming the keys in which a run's own recipe differs from the one given."""
    old, new = _flat(read_yaml(run / "config.yaml")), _flat(recipe.model_dump(mode="json"))
    told = {"train.keep", "train.trackers", "train.checkpoint_seconds", "train.checkpoint_images", "train.accumulate"}
    told |= {"about", "hardware", "time", "expected", "measured"}
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key not in told]
    if differing:
        shown = [f"{key}: {old.get(key)!r} in the run, {new.get(key)!r} asked for" for key in differing[:5]]
        raise ConfigError(
            f"{run}: this run was started with another recipe, and going on would mix the two:\n"
            + "\n".join(shown)
            + f"\nGo on as it was: limner train {run} --resume. Or start anew with another --out."
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): tree}


def _ranks_from_slurm() -> None:
    """Under `srun` with several tasks, tell torch.distributed who is who; a launcher's own variables win."""
    if "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "RANK" not in os.environ:
        from limner.cluster import rendezvous

        os.environ.update(rendezvous.environment(os.environ))


def _processes_from_accelerate() -> None:
    """Start the processes that `accelerate launch --num_processes N` was asked for, where it starts only one.

    Without a GPU accelerate's launcher runs a single process whatever N is; then this process becomes torch's launcher of N.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "WORLD_SIZE" in os.environ:
        return
    import psutil

    words = psutil.Process().parent().cmdline() if psutil.Process().parent() else []
    wanted = [b for a, b in pairwise([*words, ""]) if a in ("--num_processes", "--num-processes")]
    wanted += [word.partition("=")[2] for word in words if word.startswith(("--num_processes=", "--num-processes="))]
    if any("accelerate" in word for word in words) and wanted and wanted[-1].isdecimal() and int(wanted[-1]) > 1:
        launch(int(wanted[-1]))


def launch(processes: int) -> None:
    """Become torch's launcher of so many processes of this same command on this machine; does not return."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execve(sys.executable, [*command, "-m", "limner", *sys.argv[1:]], os.environ | {"OMP_NUM_THREADS": threads})


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()
