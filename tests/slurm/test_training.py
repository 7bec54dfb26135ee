"""Real training on the digits under a real Slurm: two nodes against one process, preemption, and a changing number of
ranks.

The order of images and their random numbers belong to the images seen so far, not to ranks: so an image missed or
served twice, on any path through preemption and regrouping, ends in other weights.
`test_other_images_would_be_noticed` shows that it would.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import Shell
from .control import SlurmCluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(importlib.util.find_spec("limner.__main__") is None, reason="`limner train` is not there yet"),
    pytest.mark.timeout(900),
]

BATCH = 64
SHORT = 20 * BATCH
LONG = 100 * BATCH
SETTINGS = (
    "train.seconds=null", f"train.batch={BATCH}", "train.precision=fp32", "train.previews=0", "train.snapshots=0",
    "train.heldout=0", "train.trackers=[]", f"train.log_images={BATCH}", "train.warmup=5",
)  # fmt: skip


def settings(images: int, *more: str) -> list[str]:
    return [f"train.images={images}", *SETTINGS, *more]


def one_process(shell: Shell, name: str, images: int, *more: str) -> Path:
    """Train without Slurm, in one process of one thread."""
    run = shell.home / name
    words = ["train", "digits", *settings(images, *more), "--out", str(run), "--resume"]
    done = subprocess.run(
        [sys.executable, "-m", "limner", *words], env={**shell.environment, "OMP_NUM_THREADS": "1"}, cwd=shell.home,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run


def submitted(shell: Shell, name: str, images: int, nodes: int, *more: str) -> tuple[str, Path]:
    run = shell.home / name
    words = ["--gpus", "0", "--cpus", "1", "--nodes", str(nodes), "--hours", "1", "--out", str(run)]
    return shell.data("submit", "digits", *settings(images, *more), *words)["jobs"][0], run


def finish(slurm: SlurmCluster, shell: Shell, job: str, run: Path) -> None:
    """Wait for the job's end; a waiting requeued job is let go at once."""

    def over() -> bool:
        state = slurm.job_state(job)
        if state == "PENDING":
            slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        assert state not in ("FAILED", "TIMEOUT", "NODE_FAIL"), shell.limner("logs", job)
        return state == "COMPLETED"

    slurm.until(over, seconds=600, what=f"job {job}")
    assert (run / "finished.json").is_file()


def rows(run: Path) -> list[dict[str, float]]:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def images_seen(run: Path) -> int:
    return int(max((row.get("images", 0) for row in rows(run)), default=0))


def preempt(slurm: SlurmCluster, job: str) -> None:
    """Let an urgent job push this one out, then let it go on at once."""
    words = ["-p", "high", "-N2", "-c4", "--exclusive", "--mem=3900", "-o", "/dev/null", "--wrap", "sleep 1"]
    urgent = slurm.call("sbatch", "--parsable", *words).strip()
    slurm.until(lambda: slurm.job_state(urgent) == "COMPLETED", seconds=120, what="the urgent job")
    slurm.until(lambda: slurm.job_state(job) == "PENDING", seconds=60, what="the requeue")
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")


def weights(run: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    files = sorted((run / "model").rglob("*.safetensors"))
    assert files, f"{run}/model has no weights"
    return {f"{path.relative_to(run)}:{name}": value for path in files for name, value in load_file(path).items()}


def difference(one: Path, other: Path) -> float:
    """The largest absolute difference of any weight."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float(np.abs(first[k].astype(np.float64) - second[k].astype(np.float64)).max()) for k in first)


def digest(run: Path) -> str:
    total = hashlib.sha256()
    for path in sorted((run / "model").rglob("*.safetensors")):
        total.update(path.read_bytes())
    return total.hexdigest()


def test_two_nodes_end_with_the_weights_of_one_process(slurm: SlurmCluster, shell: Shell) -> None:
    alone = one_process(shell, "alone", SHORT)
    job, run = submitted(shell, "pair", SHORT, 2)
    finish(slurm, shell, job, run)
    assert difference(alone, run) <= 1e-5
    steps = [row["step"] for row in rows(run) if "loss" in row]
    assert len(steps) == len(set(steps))  # logged once, not once a rank


def test_other_images_would_be_noticed(shell: Shell) -> None:
    one, other = (one_process(shell, f"seed{seed}", SHORT, f"train.seed={seed}") for seed in (0, 1))
    assert difference(one, other) > 1e-3


def test_five_preemptions_change_no_bit_of_the_weights(slurm: SlurmCluster, shell: Shell) -> None:
    job, calm = submitted(shell, "calm", LONG, 2)
    finish(slurm, shell, job, calm)
    job, run = submitted(shell, "stormy", LONG, 2)
    for cycle in range(5):
        goal = (cycle + 1) * LONG // 8
        slurm.until(lambda goal=goal: images_seen(run) >= goal, seconds=300, what=f"{goal} images")
        preempt(slurm, job)
    finish(slurm, shell, job, run)
    assert "Restarts=5" in slurm.call("scontrol", "show", "job", job)
    assert digest(run) == digest(calm)


def test_two_then_one_then_two_ranks_see_every_image_once(slurm: SlurmCluster, shell: Shell) -> None:
    alone = one_process(shell, "alone", LONG)
    run = shell.home / "changing"
    for nodes, share in ((2, 0.3), (1, 0.6), (2, 1.0)):
        job, run = submitted(shell, "changing", LONG, nodes)
        if share == 1.0:
            finish(slurm, shell, job, run)
            continue
        goal = share * LONG
        slurm.until(lambda goal=goal, run=run: images_seen(run) >= goal, seconds=300, what=f"{share:.0%} of the images")
        shell.limner("cancel", job)
        slurm.until(lambda job=job: not slurm.call("squeue", "-h", "-j", job, check=False).strip(), what="the end")
    seen = [int(row["images"]) for row in rows(run) if "loss" in row]
    assert sorted(set(seen)) == list(range(BATCH, LONG + 1, BATCH))  # no step is missing
    assert difference(alone, run) <= 1e-4  # ranks that come and go add their gradients in other orders, and Adam makes more of it
