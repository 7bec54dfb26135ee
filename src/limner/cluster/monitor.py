"""How busy the machine is, for `metrics.jsonl`; and how a run is doing, read back from there.

`sample()` is called by the training loop; it costs well under a millisecond and never fails: what cannot be measured
is left out.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limner.errors import ClusterError

TAIL_BYTES = 65_536
GIB = 2**30


def sample() -> dict[str, float]:
    """Return the load of this host and its GPUs now.

    Keys: `host/cpu_percent` (since the last call), `host/memory_gib`, `host/memory_percent`, `process/memory_gib`, and
    for each GPU
    `gpu0/util_percent`, `gpu0/memory_gib`, `gpu0/memory_percent`, `gpu0/power_watts`, `gpu0/celsius`.
    """
    import psutil

    memory = psutil.virtual_memory()
    values = {
        "host/cpu_percent": float(psutil.cpu_percent()),
        "host/memory_gib": memory.used / GIB,
        "host/memory_percent": float(memory.percent),
        "process/memory_gib": psutil.Process().memory_info().rss / GIB,
    }
    for index, device in enumerate(_devices()):
        values.update({f"gpu{index}/{key}": value for key, value in _gpu(device).items()})
    return values


@functools.cache
def _devices() -> tuple[Any, ...]:
    """NVML's handles, asked for once; none where there is no NVIDIA driver or library."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return tuple(pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount()))
    except ImportError:
        return ()
    except pynvml.NVMLError:
        return ()


def _gpu(device: Any) -> dict[str, float]:
    import pynvml

    def util() -> dict[str, float]:
        return {"util_percent": float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)}

    def memory() -> dict[str, float]:
        found = pynvml.nvmlDeviceGetMemoryInfo(device)
        return {"memory_gib": found.used / GIB, "memory_percent": 100.0 * found.used / max(1, found.total)}

    def power() -> dict[str, float]:
        return {"power_watts": pynvml.nvmlDeviceGetPowerUsage(device) / 1000}

    def heat() -> dict[str, float]:
        return {"celsius": float(pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU))}

    values: dict[str, float] = {}
    for part in (util, memory, power, heat):
        try:
            values.update(part())
        except pynvml.NVMLError:  # MIG slices and some cards do not tell everything
            continue
    return values


@dataclass(frozen=True)
class Progress:
    """How a run is doing. `budget` is 0..1; `left_seconds` is None until it can be told; `load` holds the newest host
    and GPU use.
    """

    run: str
    finished: bool
    step: int = 0
    images: int = 0
    loss: float | None = None
    images_per_second: float | None = None
    seconds: float = 0.0
    budget: float | None = None
    left_seconds: float | None = None
    load: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the progress as plain data for `--json`."""
        return asdict(self)


def progress(run: Path) -> Progress:
    """Return how a run is doing, from the end of its `metrics.jsonl`: the newest of each value, the loss as a mean of
    the last 20.

    Raises: ClusterError when the run folder is not there.
    """
    if not run.is_dir():
        raise ClusterError(f"{run}: there is no run folder yet.\nTry: limner cluster status")
    finished = (run / "finished.json").is_file()
    rows = tail(run / "metrics.jsonl")
    newest: dict[str, Any] = {}
    for row in rows:
        newest.update(row)
    losses = [row["loss"] for row in rows if isinstance(row.get("loss"), int | float)][-20:]
    budget = _real(newest.get("budget"))
    load = {key: value for key, value in newest.items() if key.startswith(("host/", "gpu")) and _real(value) is not None}
    return Progress(
        run=str(run),
        finished=finished,
        step=int(_real(newest.get("step")) or 0),
        images=int(_real(newest.get("images")) or 0),
        loss=sum(losses) / len(losses) if losses else None,
        images_per_second=_real(newest.get("images_per_second")),
        seconds=_real(newest.get("seconds")) or 0.0,
        budget=budget,
        left_seconds=0.0 if finished else _left(rows),
        load=load or None,
    )


def _left(rows: list[dict[str, Any]]) -> float | None:
    """Seconds to the end of the budget, at the pace of the rows at hand (so a requeue's waiting is not counted)."""
    points = [(_real(row.get("seconds")), _real(row.get("budget"))) for row in rows]
    pairs = [(seconds, budget) for seconds, budget in points if seconds is not None and budget is not None]
    if not pairs:
        return None
    (first_seconds, first), (last_seconds, last) = pairs[0], pairs[-1]
    if last >= 1:
        return 0.0
    if last > first and last_seconds > first_seconds:
        return (1 - last) * (last_seconds - first_seconds) / (last - first)
    return (1 - last) * last_seconds / last if last > 0 and last_seconds > 0 else None


def tail(path: Path) -> list[dict[str, Any]]:
    """Return the last rows of a `metrics.jsonl`, oldest first; a line that is being written is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines[1:] if size > TAIL_BYTES else lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
