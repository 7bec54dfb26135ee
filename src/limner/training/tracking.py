"""Where the numbers of a run go: `metrics.jsonl` always, and any tracker that accelerate knows.

After a resume the lines beyond the checkpoint's step are dropped, so the file reads as if the run had never stopped.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from limner.errors import ConfigError, MissingError, nearest
from limner.files import read_metrics, write_text


class Metrics:
    """Appends one JSON object a line to `path` and passes the numbers on to accelerate's trackers.

    Raises: MissingError when a tracker's library is not installed; ConfigError when accelerate does not know it.
    """

    def __init__(self, path: Path, accelerator: Accelerator, trackers: tuple[str, ...], *, after_step: int) -> None:
        self.path, self.accelerator = path, accelerator
        self.main = accelerator.is_main_process
        if not self.main:
            return
        logs_with = _trackers(trackers, path.parent)  # refuses unknown ones before anything is written
        kept = [line for line in read_metrics(path) if line["step"] <= after_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        if logs_with:
            accelerator.log_with = logs_with
            accelerator.init_trackers("limner")

    def write(self, numbers: dict[str, Any]) -> None:
        """Write one line (main process only)."""
        if not self.main:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(numbers) + "\n")
        scalars = {key: value for key, value in numbers.items() if isinstance(value, int | float)}
        for index, value in enumerate(numbers.get("loss_bins") or []):
            if value is not None:
                scalars[f"loss_bins/{index}"] = value
        self.accelerator.log(scalars, step=numbers["step"])

    def close(self) -> None:
        """Flush the trackers."""
        if self.main and self.accelerator.trackers:
            self.accelerator.end_training()


def _trackers(names: tuple[str, ...], run: Path) -> list[Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker
    from accelerate.utils import is_tensorboard_available

    result: list[Any] = []
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"train.trackers: {name!r} is unknown.{nearest(name, LOGGER_TYPE_TO_CLASS)} Allowed: {', '.join(LOGGER_TYPE_TO_CLASS)}."
            )
    for name in names:
        if name == "tensorboard":
            if is_tensorboard_available():
                result.append(TensorBoardTracker(run.name, logging_dir=str(run / "tensorboard")))
            continue
        from accelerate.tracking import filter_trackers

        if not filter_trackers([name], str(run)):
            raise MissingError(f"train.trackers: {name!r} needs its library: pip install {name}")
        result.append(name)
    return result


def environment() -> dict[str, Any]:
    """Return what a run was made with: versions, machine, git commit of the working folder."""
    names = ("limner", "torch", "numpy", "accelerate", "safetensors", "tokenizers", "pydantic")
    return {
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in names},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _git() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
