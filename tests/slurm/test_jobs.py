"""Submit, follow, cancel, requeue: real Slurm, a pretend training that keeps the contract (exit 75 is «saved, not
finished»).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Shell
from .control import SlurmCluster

pytestmark = pytest.mark.slurm


def starts(run: Path) -> list[Any]:
    path = run / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def submit(shell: Shell, *args: str) -> list[str]:
    return list(shell.data("submit", *args)["jobs"])


def test_two_nodes_of_two_ranks_meet_and_finish(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training()
    shell.environment["MINE"] = "kept"
    run = shell.home / "my run"
    [job] = submit(shell, str(recipe), "train.lr=1e-3", "caption=a b", "--nodes", "2", "--gpus", "2", "--out", str(run))
    slurm.until(lambda: slurm.job_state(job) == "COMPLETED", what="the job's end")
    found = starts(run)
    assert sorted(start["env"]["RANK"] for start in found) == ["0", "1", "2", "3"]
    assert sorted(start["env"]["LOCAL_RANK"] for start in found) == ["0", "0", "1", "1"]
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        assert len({start["env"][name] for start in found}) == 1, name
    assert found[0]["env"]["WORLD_SIZE"] == "4" and found[0]["env"]["LOCAL_WORLD_SIZE"] == "2"
    assert found[0]["env"]["MASTER_ADDR"] == "127.0.0.1"  # n1 has no name outside Slurm: its NodeAddr counts
    assert found[0]["words"] == [str(recipe), "train.lr=1e-3", "caption=a b", "--out", str(run), "--resume"]
    assert found[0]["mine"] == "kept"
    assert (run / "job.sbatch").read_text().startswith("#!/bin/bash\n")
    assert "rank 3 finished" in shell.limner("logs", job)
    assert "finished already" in shell.limner("submit", str(recipe), "--out", str(run))
    assert "the run is finished" in shell.limner("monitor", job)


def test_without_gpus_there_is_one_rank_a_node(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training()
    run = shell.home / "cpu"
    [job] = submit(shell, str(recipe), "--gpus", "0", "--nodes", "2", "--cpus", "1", "--out", str(run))
    slurm.until(lambda: slurm.job_state(job) == "COMPLETED", what="the job's end")
    assert [start["env"]["WORLD_SIZE"] for start in starts(run)] == ["2", "2"]


def test_the_time_limit_saves_all_ranks_and_requeues(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="100000")
    run = shell.home / "limit"
    [job] = submit(shell, str(recipe), "--gpus", "1", "--nodes", "2", "--hours", "0.0167", "--out", str(run))
    path = run / f"job-{job}.log"
    slurm.until(lambda: path.is_file() and "back into the queue" in path.read_text(), seconds=100, what="the requeue")
    log = shell.limner("logs", job)
    assert "rank 0 saved" in log and "rank 1 saved" in log and "after signal 10" in log
    slurm.until(lambda: shell.data("status", job)[0]["state"] == "PENDING", what="waiting again")
    assert "waits for its start time" in shell.limner("status", job)
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    slurm.until(lambda: len(starts(run)) == 4, seconds=240, what="the second start")
    assert [start["restarts"] for start in starts(run)] == ["", "", "1", "1"]
    assert "is cancelled" in shell.limner("cancel", job)


def test_preemption_saves_and_goes_on_at_the_next_step(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="60")
    run = shell.home / "preempted"
    [job] = submit(shell, str(recipe), "--gpus", "2", "--nodes", "2", "--hours", "1", "--out", str(run))
    slurm.until(lambda: (run / "metrics.jsonl").is_file(), what="the first step")
    words = ["-p", "high", "-N2", "--gres=gpu:2", "-c1", "--mem=50", "-o", "/dev/null", "--wrap", "sleep 1"]
    urgent = slurm.call("sbatch", "--parsable", *words).strip()
    slurm.until(lambda: slurm.job_state(urgent) == "COMPLETED", seconds=90, what="the urgent job")
    log = shell.limner("logs", job)
    assert all(f"rank {rank} saved" in log for rank in range(4)) and "after signal 15" in log
    assert "back into the queue" not in log  # Slurm requeues by itself here
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    slurm.until(lambda: slurm.job_state(job) == "COMPLETED", seconds=90, what="the job's end")
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))  # none twice, none missed


def test_a_cancelled_job_stays_cancelled(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="100000")
    run = shell.home / "cancelled"
    [job] = submit(shell, str(recipe), "--out", str(run))
    slurm.until(lambda: (run / "metrics.jsonl").is_file(), what="the first step")
    assert f"job {job} already works on" in shell.limner("submit", str(recipe), "--out", str(run), code=2)
    assert "is cancelled (it ran for" in shell.limner("cancel", job)
    slurm.until(lambda: "saved at step" in shell.limner("logs", job), what="saving")
    time.sleep(5)
    assert slurm.job_state(job) == "CANCELLED"
    assert "had ended already" in shell.limner("cancel", job)
    text = shell.limner("monitor", job)
    assert "loss" in text and "images/s" in text and "ends in" in text and "host/cpu_percent" in text


def test_a_sweep_is_an_array_of_runs(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="2")
    run = shell.home / "sweep"
    [job] = submit(
        shell,
        str(recipe),
        "a=7",
        "--sweep",
        "train.lr=1e-3,2e-3",
        "--sweep",
        "seed=1,2",
        "--gpus",
        "1",
        "--out",
        str(run),
    )
    slurm.until(lambda: not slurm.call("squeue", "-h", "-j", job).strip(), what="the array's end")
    words = {tuple(starts(folder)[0]["words"][1:4]) for folder in run.iterdir() if folder.is_dir()}
    assert words == {("a=7", f"train.lr={lr}", f"seed={seed}") for lr in ("1e-3", "2e-3") for seed in ("1", "2")}
    assert all((folder / "finished.json").is_file() for folder in run.iterdir() if folder.is_dir())
    assert "rank 0 finished" in shell.limner("logs", f"{job}_3")
    assert f"logs {job}_0" in shell.limner("logs", job, code=2)
    assert "seed=2" in shell.limner("monitor", f"{job}_3")


def test_one_task_of_an_array_requeues_alone(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="100000")
    run = shell.home / "sweep"
    [job] = submit(shell, str(recipe), "--sweep", "seed=1,2", "--gpus", "1", "--hours", "0.0167", "--out", str(run))
    log = run / f"job-{job}_1.log"
    slurm.until(lambda: log.is_file() and "back into the queue" in log.read_text(), seconds=100, what="the requeue")
    slurm.until(
        lambda: {j["state"] for j in shell.data("status") if j["id"].startswith(job)} == {"PENDING"},
        what="both waiting",
    )
    assert len([j for j in shell.data("status") if j["id"].startswith(job)]) == 2
    restarts = [slurm.call("scontrol", "show", "job", f"{job}_{i}").partition("Restarts=")[2][0] for i in (0, 1)]
    assert restarts == ["1", "1"]


def test_a_chain_runs_in_order_and_stops_at_a_failure(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="2", FAKE_OUT=str(shell.home))
    run = shell.home / "chain"
    ids = submit(shell, str(recipe), "--chain", "cache,train,eval", "--out", str(run))
    slurm.until(lambda: slurm.job_state(ids[2]) == "COMPLETED", seconds=90, what="the chain's end")
    assert (shell.home / "cache.txt").read_text() == str(recipe)
    assert (shell.home / "eval.txt").read_text() == str(run)
    assert (shell.home / "cache.txt").stat().st_mtime < (run / "finished.json").stat().st_mtime
    shell.fake_training(FAKE_OUT=str(shell.home), FAKE_CODE="3")
    ids = submit(shell, str(recipe), "--chain", "cache,train", "--out", str(shell.home / "other"))
    slurm.until(lambda: slurm.job_state(ids[0]) == "FAILED", what="the cache's failure")
    slurm.until(lambda: slurm.job_state(ids[1]) == "CANCELLED", seconds=90, what="the training given up")


def test_dry_run_shows_the_script_and_submits_nothing(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    out = shell.limner("submit", str(recipe), "--dry-run", "--gpus", "2", "--nodes", "2")
    assert "#SBATCH --gres=gpu:2" in out and "srun" in out
    assert not (shell.home / "runs").exists() and not slurm.call("squeue", "-h").strip()


def test_logs_follow_until_the_job_ends(shell: Shell, recipe: Path) -> None:
    shell.fake_training(FAKE_STEPS="10")
    [job] = submit(shell, str(recipe), "--out", str(shell.home / "run"))
    assert "rank 0 finished" in shell.limner("logs", job, "-f", timeout=60)


def test_jobs_and_nodes_that_do_not_exist_are_told_in_words(shell: Shell, recipe: Path) -> None:
    for verb in ("status", "logs", "cancel", "monitor", "connect"):
        message = shell.limner(verb, "987654", code=2)
        assert "limner cluster status" in message and len(message.splitlines()) <= 10
        assert "no job id" in shell.limner(verb, "12; rm", code=2)
    submitted = shell.limner("submit", str(recipe), "--node", "n9", code=2)
    assert "no node 'n9'" in submitted and "limner cluster nodes" in submitted
    assert "most GPUs on one node are 2" in shell.limner("submit", str(recipe), "--gpus", "5", code=2)
    assert "no partition 'nope'" in shell.limner("submit", str(recipe), "--partition", "nope", code=2)
    assert "no recipe" in shell.limner("submit", "no-such-recipe", code=2)


def test_a_full_queue_is_told_in_words(shell: Shell, recipe: Path) -> None:
    small = SlurmCluster(max_jobs=6)
    try:
        small.start()
        small.call("sbatch", "--hold", "--array=0-4", "-o", "/dev/null", "--wrap", "sleep 1")
        more = {"SLURM_CONF": small.environment["SLURM_CONF"]}
        message = shell.limner("submit", str(recipe), "--sweep", "seed=1,2,3", "--gpus", "0", code=2, timeout=90, **more)
        assert "queue is full" in message and "limner cluster status" in message
    finally:
        small.stop()


def test_waiting_jobs_are_explained(slurm: SlurmCluster, shell: Shell, recipe: Path) -> None:
    for node in ("n1", "n2"):
        slurm.hold(2, node)
    [job] = submit(shell, str(recipe), "--out", str(shell.home / "run"))
    wanted = ("waits for free resources", "waits behind jobs")
    slurm.until(lambda: any(w in shell.limner("status") for w in wanted), what="an explanation")
    assert "no log yet" in shell.limner("logs", job, code=2)
    slurm.until(lambda: "starts about" in shell.limner("status"), seconds=60, what="Slurm's estimate")


def test_no_slurm_on_the_machine_is_told_in_words(shell: Shell, recipe: Path) -> None:
    for words in (
        ["gpus"],
        ["nodes"],
        ["status"],
        ["logs", "1"],
        ["cancel", "1"],
        ["submit", str(recipe)],
        ["jupyter"],
    ):
        message = shell.limner(*words, code=2, PATH="/nonexistent")
        assert "no Slurm on this machine" in message and "limner train" in message and len(message.splitlines()) <= 10
