"""The job script, word for word, and the plans that it is made from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from limner.cluster import jobs, script
from limner.cluster.profile import Profile
from limner.errors import ClusterError

from .conftest import FakeSlurm
from .shapes import SINFO

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "my recipe.yaml"
    path.write_text("train: {}\n")
    return path


def around() -> script.Surroundings:
    return script.Surroundings(
        ("apptainer", "exec", "--nv", "limner.sif", "python"),
        ("cuda/12.4",),
        "source ~/venv/bin/activate",
        {"A": "b c"},
    )


def asked() -> script.Resources:
    return script.Resources(
        hours=26.5, nodes=2, tasks=8, gpus=8, gpu_type="a100", cpus=8, memory_mb=900_000, partition="gpu", qos="normal",
        account="me", more=("--constraint=nvlink",),
    )  # fmt: skip


def golden(name: str, text: str) -> None:
    """Compare with the kept script; to accept a change, delete the file and run again."""
    path = GOLDEN / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        pytest.fail(f"{path} was missing and is written now: read it")
    assert text == path.read_text()


def test_the_training_script_is_as_kept() -> None:
    overrides = ["train.lr=1e-3", "text=it's"]
    golden("train.sbatch", script.train_script(asked(), around(), recipe="digits", overrides=overrides, run="/runs/a b"))


def test_the_sweep_script_is_as_kept() -> None:
    sweep = [("/runs/s/lr=1", ["lr=1"]), ("/runs/s/lr=2", ["lr=2", "note=a b"])]
    golden(
        "sweep.sbatch",
        script.train_script(asked(), around(), recipe="d", overrides=["x=1"], run="/runs/s", sweep=sweep),
    )


def test_the_single_script_is_as_kept() -> None:
    words = ["limner", "eval", "/r s"]
    hour = script.Resources(hours=1)
    golden("eval.sbatch", script.simple_script(hour, around(), name="n", log="/l/%j", arguments=words))


@pytest.mark.parametrize("name", ["train.sbatch", "sweep.sbatch", "eval.sbatch"])
def test_bash_reads_the_scripts(name: str) -> None:
    done = subprocess.run(["bash", "-n", str(GOLDEN / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("bad", ['a"b', "a\nb", "a\\b"])
def test_what_would_break_out_of_a_header_is_refused(bad: str) -> None:
    with pytest.raises(ClusterError, match="cannot stand in a job script"):
        script.header(script.Resources(hours=1, partition=bad), name="n", log="l", requeue=False)


def test_percent_signs_of_the_users_path_are_doubled() -> None:
    [line] = [x for x in script.header(script.Resources(hours=1), name="n", log="/a%b/%j.log", requeue=False) if "output" in x]
    assert line == "#SBATCH --output=/a%%b/%j.log"


@pytest.mark.parametrize(("hours", "text"), [(24, "1-00:00:00"), (0.5, "00:30:00"), (0.001, "00:01:00"), (49.25, "2-01:15:00")])
def test_hours_become_a_time_limit(hours: float, text: str) -> None:
    assert script.clock(hours) == text


@pytest.mark.parametrize("hours", [0, -1, float("nan"), 1e9])
def test_impossible_hours_are_refused(hours: float) -> None:
    with pytest.raises(ClusterError, match="--hours"):
        script.clock(hours)


def test_a_job_asks_for_a_fair_share_of_the_node(fake: FakeSlurm, recipe: Path) -> None:
    fake.says("sinfo", SINFO)
    found = jobs.resources(jobs.Request(gpus=2, gpu_type="v100"), Profile())
    assert (found.tasks, found.gpus, found.gpu_type, found.cpus) == (2, 2, "v100", 16)
    assert found.memory_mb == int(0.95 * 515000 * 2 / 4)
    assert jobs.resources(jobs.Request(gpus=2, gpu_type="v100", cpus=3, memory_gb=1), Profile()).cpus == 3
    assert jobs.resources(jobs.Request(gpus=0), Profile(cpu_partition="cpu")).partition == "cpu"
    with pytest.raises(ClusterError, match="the most GPUs on one node are 4"):
        jobs.resources(jobs.Request(gpus=5, gpu_type="v100"), Profile())
    with pytest.raises(ClusterError, match=r"no partition 'gpuu'\. Did you mean 'gpu'"):
        jobs.resources(jobs.Request(partition="gpuu"), Profile())


def test_sweeps_are_the_product_of_their_values() -> None:
    assert jobs.sweep_points(["a.b=1,2", "c=[1,2],x"]) == [
        ["a.b=1", "c=[1,2]"], ["a.b=1", "c=x"], ["a.b=2", "c=[1,2]"], ["a.b=2", "c=x"],
    ]  # fmt: skip
    for bad in ("a", "a=", "=1", "a b=1", "a=1,,2"):
        with pytest.raises(ClusterError, match="--sweep"):
            jobs.sweep_points([bad])
    with pytest.raises(ClusterError, match="more than 1000"):
        jobs.sweep_points(["a=" + ",".join(map(str, range(40)))] * 2)


@pytest.mark.parametrize("chain", [["train", "cache"], ["train", "train"], ["evl"], [""]])
def test_chains_out_of_order_are_refused(fake: FakeSlurm, recipe: Path, chain: list[str]) -> None:
    with pytest.raises(ClusterError, match="--chain"):
        jobs.plan(str(recipe), [], jobs.Request(), Profile(), chain=chain)


def test_a_submission_from_inside_a_job_does_not_inherit_its_shape(
    fake: FakeSlurm, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.says("sinfo", SINFO)
    fake.says("squeue", "", code=1, error="slurm_load_jobs error: Invalid job id specified")
    (fake.folder / "sbatch").write_text(f"#!/bin/sh\n/usr/bin/env > {fake.folder}/environment\necho '41;cluster'\n")
    (fake.folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("MINE", "kept")
    plans = jobs.plan(str(recipe), [], jobs.Request(), Profile())
    assert jobs.submit(plans) == ["41"]
    environment = (fake.folder / "environment").read_text()
    assert "SLURM_NTASKS" not in environment and "SLURM_CONF" in environment and "MINE=kept" in environment
    assert plans[0].path.read_text() == plans[0].text


def test_a_refused_job_of_a_chain_takes_back_those_before_it(fake: FakeSlurm, recipe: Path) -> None:
    fake.says("sinfo", SINFO)
    fake.says("squeue", "7|PENDING|None|gpu|me|1|4|cpu=4||0:00|8:00:00|N/A||x|\n")
    fake.says("scancel", "")
    (fake.folder / "sbatch").write_text(
        f'#!/bin/sh\ncase "$*" in *afterok*) echo "sbatch: error: Invalid qos specification" >&2; exit 1;; esac\n'
        f'echo "sbatch $*" >> {fake.folder}/asked\necho 7\n'
    )
    (fake.folder / "sbatch").chmod(0o755)
    with pytest.raises(ClusterError, match="Invalid qos"):
        jobs.submit(jobs.plan(str(recipe), [], jobs.Request(), Profile(), chain=["cache", "train"]))
    assert "scancel 7" in fake.asked
