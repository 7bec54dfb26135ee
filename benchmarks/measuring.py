"""How the benchmarks measure: arms in turns (A B A B), medians, one table of ratios with machine, versions and date."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil

Arm = Callable[[], int]
"""Does a portion of work and returns how many images that was."""


def rates(arms: Mapping[str, Arm], *, rounds: int, seconds: float) -> dict[str, float]:
    """Return the median images/s of each arm over `rounds` turns; the first call of each is not counted."""
    for arm in arms.values():
        arm()
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start, images = time.perf_counter(), 0
            while True:
                images += arm()
                passed = time.perf_counter() - start
                if passed >= seconds:
                    break
            found[name].append(images / passed)
    return {name: statistics.median(values) for name, values in found.items()}


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes.

    Linux's ru_maxrss starts at the size of the process that started this one; VmHWM belongs to this program alone.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def peak_memory_of(script: Path, arguments: Sequence[str]) -> int:
    """Return what `peak_memory` says at the end of a script run in a process of its own: the last line it prints."""
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script.name} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"])


def machine() -> str:
    """Return processor, cores, threads, load, versions and date in two lines."""
    model = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    import torch

    names = ("limner", "torch", "diffusers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return (
        f"{model}, {os.cpu_count()} logical cores, {torch.get_num_threads()} threads, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, load {psutil.getloadavg()[0]:.1f}\n"
        f"Python {platform.python_version()}, {versions}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    )


def table(rows: Sequence[tuple[str, float, float, str, float | None]]) -> str:
    """Return a table of (what, ours, theirs, unit, promised ratio)."""
    width = max(len(row[0]) for row in rows)
    lines = [
        f"| {'what':<{width}} | limner | peer | unit | ratio | promised |",
        f"|{'-' * (width + 2)}|---|---|---|---|---|",
    ]
    for what, ours, theirs, unit, promised in rows:
        wanted = "" if promised is None else f"at least {promised:g}" if unit == "images/s" else f"at most {promised:g}"
        lines.append(f"| {what:<{width}} | {ours:.4g} | {theirs:.4g} | {unit} | {ours / theirs:.3g} | {wanted} |")
    return "\n".join(lines)
