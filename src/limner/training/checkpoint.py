"""Checkpoints: whole or absent, hashed, and pruned only after their successor is published.

    checkpoints/step-00001200/  learner.safetensors  ema-0.05.safetensors ...  optimizer.safetensors  state.json  manifest.json

`manifest.json` holds the size and SHA-256 of every other file. Safetensors and JSON only: loading runs no code. Next: `loop.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.errors import CheckpointError
from limner.files import publish, remove_leftovers
from limner.model import file_sha256
from limner.training.sharding import like


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:08d}"


def save(run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int) -> Path:
    """Publish a checkpoint and prune older ones.

    Arguments:
        tensors: file stem -> name -> tensor, such as {"learner": ..., "ema-0.05": ..., "optimizer": ...}.
        state: JSON: step, images, seconds and the like.
        keep: how many checkpoints stay, this one included.
    Raises: CheckpointError when the disk refuses; older checkpoints are then untouched.
    """
    folder = folder_of(run, step)
    with publish(folder) as temporary:
        manifest = {}
        for stem, named in tensors.items():
            path = temporary / f"{stem}.safetensors"
            save_file({name: value.detach().cpu().contiguous() for name, value in named.items()}, path)
        (temporary / "state.json").write_text(json.dumps(dict(state)), encoding="utf-8")
        for path in sorted(temporary.iterdir()):
            manifest[path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    # Newer ones were passed over (damaged) when the run went on from an older one: counted, they would push out the good.
    older, newer = ([n for n in steps(run) if (n > step) == later] for later in (False, True))
    for old in [*older[:-keep], *newer]:
        shutil.rmtree(folder_of(run, old), ignore_errors=True)
    return folder


def tidy(run: Path, *, step: int | None = None) -> None:
    """Delete what killed writes left in a run; with `step`, also the snapshots of a future beyond it that is not gone on with."""
    for parent in (run, run / "checkpoints", run / "snapshots"):
        if parent.is_dir():
            remove_leftovers(parent)
    for later in {path.parent for number, _, path in snapshots(run) if step is not None and number > step}:
        shutil.rmtree(later, ignore_errors=True)


def steps(run: Path) -> list[int]:
    """Return the steps that have a published checkpoint, rising."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(int(path.name[5:]) for path in found if path.name[5:].isdecimal() and path.is_dir())


def verify(folder: Path) -> None:
    """Raise CheckpointError naming the first file that is missing, or whose size or SHA-256 is not the manifest's."""
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
        entries = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: its manifest.json cannot be read.") from error
    if text != json.dumps(manifest, indent=1):
        raise CheckpointError(f"{folder}: damaged: its manifest.json is not as it was written.")
    if "state.json" not in entries:
        raise CheckpointError(f"{folder}: its manifest.json names no state.json.")
    for name, (size, digest) in entries.items():
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise CheckpointError(f"{path}: missing.")
        if path.stat().st_size != size or file_sha256(path) != digest:
            raise CheckpointError(f"{path}: damaged: size or SHA-256 is not what its manifest says.")
    for path in sorted(folder.iterdir()):
        if path.name != "manifest.json" and path.name not in entries:
            raise CheckpointError(f"{path}: its manifest does not know this file.")


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return (tensors, state) of a verified checkpoint.

    Raises: CheckpointError naming the file.
    """
    verify(folder)
    try:
        tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error
    return tensors, state


def latest(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint of a run (None when there is none), and notices about damaged ones passed over."""
    notices: list[str] = []
    for step in reversed(steps(run)):
        try:
            verify(folder_of(run, step))
            return folder_of(run, step), notices
        except CheckpointError as error:
            notices.append(f"{error} Using the checkpoint before it, if there is one.")
    return None, notices


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors; `names` are the parameters' names in the optimizer's order."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}|{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: list[str]) -> None:
    """Put back what `optimizer_tensors` gave, each moment laid out in memory as its parameter is.

    Fused AdamW walks through memory and never looks at strides: beside a channels-last parameter, plain moments are taken for
    other weights', without an error.
    """
    state: dict[int, dict[str, Tensor]] = {}
    index = {name: i for i, name in enumerate(names)}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("|")
        state.setdefault(index[parameter], {})[key] = like(parameters[index[parameter]], value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_snapshot(run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Publish the averages of a step for good (never pruned): other EMA widths are rebuilt from them, and autoguidance uses them."""
    with publish(run / "snapshots" / f"step-{step:08d}") as temporary:
        for stem, named in tensors.items():
            save_file({name: value.detach().cpu().contiguous() for name, value in named.items()}, temporary / f"{stem}.safetensors")


def snapshots(run: Path) -> list[tuple[int, float, Path]]:
    """Return (step, sigma_rel, file) of every stored average of a run, rising by step."""
    found = (run / "snapshots").glob("step-*/ema-*.safetensors")
    return sorted((int(path.parent.name[5:]), float(path.stem[4:]), path) for path in found)
