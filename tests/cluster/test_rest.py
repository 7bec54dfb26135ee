"""Profile, SSH command, records, monitoring, scaling; and that every verb starts fast and answers for a large
cluster.
"""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limner.cluster import cli, jupyter, monitor, node_server, profile, records, scaling, tunnel
from limner.cluster.profile import Profile
from limner.config import validate
from limner.errors import ClusterError, ConfigError

from .conftest import FakeSlurm
from .shapes import SINFO, SQUEUE, big_sinfo

VERBS = [
    "gpus",
    "nodes",
    "jupyter",
    "connect",
    "status",
    "logs",
    "cancel",
    "tensorboard",
    "monitor",
    "submit",
    "profile",
]
ROOT = Path(__file__).parents[2]


def test_a_profile_survives_its_file(fake: FakeSlurm, tmp_path: Path) -> None:
    kept = Profile(login_host="me@login.site", jump_host="gate:2222", modules=("cuda/12.4",), environment={"A": "b c"})
    Path("cluster.yaml").write_text(profile.to_yaml(kept))
    assert profile.load() == kept
    Path("cluster.yaml").unlink()
    assert profile.load() == Profile()


def test_a_profile_with_an_unknown_key_names_the_nearest(fake: FakeSlurm) -> None:
    Path("cluster.yaml").write_text("login_hst: a\n")
    with pytest.raises(ClusterError, match="login_host"):
        profile.load()


@pytest.mark.parametrize(
    "bad",
    [
        {"login_host": "a b"}, {"login_host": "-oProxyCommand=x"}, {"jump_host": "a;b"}, {"activate": "a\nb"},
        {"domain": "$(x)"}, {"ssh_options": ["a'b"]}, {"environment": {"A B": "c"}}, {"gpu_partition": "--x"},
    ],
)  # fmt: skip
def test_what_a_shell_would_read_differently_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        validate(Profile, bad)


def test_the_ssh_command_goes_through_every_host_in_one_plain_line() -> None:
    site = Profile(login_host="login.site", jump_host="gate.site:2222", domain="nodes.site", user="ann")
    assert tunnel.ssh_command(site, "gpu7", "127.0.0.1:31234", local_port=9000) == (
        "ssh -N -L 9000:127.0.0.1:31234 -J ann@gate.site:2222,ann@login.site ann@gpu7.nodes.site"
    )
    socket = tunnel.ssh_command(site, "gpu7", "/tmp/limner-1-x/jupyter.sock")
    assert "-L 8888:/tmp/limner-1-x/jupyter.sock" in socket
    with pytest.raises(ClusterError, match="quotes"):
        tunnel.ssh_command(site, "gpu7", "/tmp/a b.sock")


def test_records_are_private_and_lead_from_a_job_to_its_run(fake: FakeSlurm, tmp_path: Path) -> None:
    run = tmp_path / "run%1"
    run.mkdir()
    records.remember(records.Record("12", "train", f"{run}/job-%j.log".replace("run%1", "run%%1"), str(run)))
    records.remember(records.Record("13", "train", "/s/job-%A_%a.log", "/tmp", ("/s/a", "/s/b")))
    path = records.state_folder("jobs") / "12.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert records.log_of("12") == run / "job-12.log" and records.run_of("12") == run
    assert records.log_of("13_1") == Path("/s/job-13_1.log") and records.run_of("13_1") == Path("/s/b")
    with pytest.raises(ClusterError, match="array of 2"):
        records.run_of("13")
    Path("/tmp/job.json").unlink(missing_ok=True)
    path.write_text("{broken")
    assert records.recall("12") is None


def test_the_load_of_this_machine_is_measured_fast_and_finite() -> None:
    first = monitor.sample()
    start = time.perf_counter()
    values = monitor.sample()
    assert time.perf_counter() - start < 0.05
    assert {"host/cpu_percent", "host/memory_gib"} <= set(first) and all(isinstance(v, float) for v in values.values())
    assert 0 < values["host/memory_percent"] <= 100


class FakeNvml:
    """NVML with two GPUs, of which one tells no power."""

    class NVMLError(Exception):
        """NVML's own error."""

    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802
        return None

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUtilizationRates(self, device: int) -> object:  # noqa: N802
        return type("Rates", (), {"gpu": 50 + device})()

    def nvmlDeviceGetMemoryInfo(self, device: int) -> object:  # noqa: N802
        return type("Info", (), {"used": 2**30 * (1 + device), "total": 2**33})()

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:  # noqa: N802
        if device:
            raise self.NVMLError
        return 250_000

    def nvmlDeviceGetTemperature(self, device: int, which: int) -> int:  # noqa: N802
        return 60


def test_gpus_are_measured_and_what_they_do_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())  # type: ignore[arg-type]
    monitor._devices.cache_clear()
    try:
        values = monitor.sample()
    finally:
        monitor._devices.cache_clear()
    assert values["gpu0/util_percent"] == 50 and values["gpu1/memory_gib"] == 2
    assert values["gpu0/power_watts"] == 250 and "gpu1/power_watts" not in values


def write_metrics(run: Path, rows: list[dict[str, float]], rest: str = "") -> None:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + rest)


def test_progress_is_read_from_the_end_of_the_metrics(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = [
        {
            "step": i,
            "images": 64 * i,
            "loss": float(i),
            "images_per_second": 100.0,
            "seconds": 2.0 * i,
            "budget": i / 10_000,
        }
        for i in range(1, 5001)
    ]
    write_metrics(run, rows, rest='{"step": 5001, "lo')
    found = monitor.progress(run)
    assert (found.step, found.images, found.budget) == (5000, 320_000, 0.5)
    assert found.loss == pytest.approx(4990.5) and found.left_seconds == pytest.approx(10_000, rel=1e-6)
    assert not found.finished
    (run / "finished.json").write_text("{}")
    assert monitor.progress(run).finished and monitor.progress(run).left_seconds == 0


def test_an_empty_or_strange_run_has_no_progress_but_no_crash(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no run folder"):
        monitor.progress(tmp_path / "none")
    for rest in ("", "not json\n[1]\n", '{"step": "x", "loss": null, "budget": true}\n'):
        write_metrics(tmp_path / "run", [], rest)
        found = monitor.progress(tmp_path / "run")
        assert found.step == 0 and found.loss is None and found.left_seconds is None


def test_a_free_port_is_free_and_a_dead_server_is_no_answer() -> None:
    assert node_server.status_of(f"127.0.0.1:{node_server.free_port()}", "/") == 0
    assert node_server.status_of("/nonexistent/socket", "/") == 0


def test_a_failed_server_is_told_and_a_missing_one_is_not_ready(fake: FakeSlurm) -> None:
    assert jupyter.ready("5") is None
    records.write_private(records.state_folder("servers", "5") / "failed", "no jupyter")
    with pytest.raises(ClusterError, match="no jupyter"):
        jupyter.ready("5")


def test_the_table_of_the_scaling_page_is_what_the_model_gives() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert scaling.markdown(scaling.rows()) in page


def test_the_scaling_model_obeys_its_limits() -> None:
    one, eight = scaling.predict(1, 128), scaling.predict(8, 1024)
    assert one.all_reduce == 0 and eight.compute == pytest.approx(one.compute)
    size = scaling.Workload().parameters * 2 / 1e6
    assert scaling.predict(512, 8192).reduced_megabytes == pytest.approx(2 * 511 / 512 * size)
    slow = scaling.predict(64, 4096, machine=scaling.Machine(bytes_across=1e8, local_data=True))
    assert slow.exposed > slow.compute and "images a GPU" in scaling.advice(slow)
    with pytest.raises(ValueError, match="evenly"):
        scaling.predict(3, 128)


def seconds_of(*args: str) -> float:
    start = time.perf_counter()
    subprocess.run(args, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"})
    return time.perf_counter() - start


def test_a_verb_starts_within_ten_times_a_bare_python() -> None:
    """The fastest of fifteen each: whatever else the machine does only adds."""
    bare = min(seconds_of(sys.executable, "-c", "pass") for _ in range(15))
    for verb in VERBS:
        verb_seconds = min(seconds_of(sys.executable, "-m", "limner.cluster", verb, "--help") for _ in range(5))
        assert verb_seconds < 10 * bare, (verb, verb_seconds, bare)


@pytest.mark.parametrize("verb", ["gpus", "nodes", "status"])
def test_a_whole_answer_comes_within_ten_times_a_bare_python(fake: FakeSlurm, verb: str) -> None:
    fake.says("sinfo", SINFO)
    fake.says("squeue", SQUEUE)

    def answer() -> float:
        start = time.perf_counter()
        assert fake.run(verb).returncode == 0
        return time.perf_counter() - start

    bare = min(seconds_of(sys.executable, "-c", "pass") for _ in range(15))
    whole = min(answer() for _ in range(15))
    assert whole < 10 * bare, (whole, bare)


def test_no_verb_imports_what_is_heavy(fake: FakeSlurm) -> None:
    fake.says("sinfo", SINFO)
    fake.says("squeue", SQUEUE)
    code = (
        "import sys\nfrom limner.cluster.cli import main\nmain()\n"
        "print([m for m in ('torch', 'numpy', 'accelerate', 'rich', 'pydantic', 'typer') if m in sys.modules])"
    )
    for verb in ("gpus", "nodes", "status"):
        done = subprocess.run(
            [sys.executable, "-c", code, verb], env={"PYTHONPATH": str(ROOT / "src"), "PATH": str(fake.folder)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "[]", verb


@pytest.mark.parametrize("verb", [["gpus"], ["nodes"], ["gpus", "--json"], ["gpus", "--all"]])
def test_two_thousand_nodes_are_answered_within_two_seconds(fake: FakeSlurm, verb: list[str]) -> None:
    fake.says("sinfo", big_sinfo(2000))
    start = time.perf_counter()
    done = fake.run(*verb)
    assert done.returncode == 0 and time.perf_counter() - start < 2
    if verb == ["gpus", "--json"]:
        assert json.loads(done.stdout)["totals"][0]["total"] == 16_000


def test_an_unreadable_sinfo_falls_back_to_scontrol_and_else_says_so(fake: FakeSlurm) -> None:
    from .shapes import SCONTROL

    fake.says("sinfo", "", code=1, error="sinfo: error: Invalid node format specification: GresUsed")
    fake.says("scontrol", SCONTROL)
    assert "g1" in fake.run("gpus").stdout
    fake.says("sinfo", "what is this\n")
    fake.says("scontrol", "nor this\n")
    done = fake.run("gpus")
    assert done.returncode == 2 and "cannot read this" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "account",
        ),
        (
            "sinfo: error: slurm_load_partitions: Unable to contact slurm controller (connect failure)",
            "does not answer",
        ),
        ("x" * 5000 + "\n" * 50, "said"),
    ],
)
def test_slurms_errors_become_short_messages(fake: FakeSlurm, error: str, words: str) -> None:
    fake.says("sinfo", "", code=1, error=error)
    done = fake.run("gpus")
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) <= 10
    assert len(done.stderr) < 1000


def test_every_verb_explains_itself() -> None:
    overview = cli.overview()
    for verb in VERBS:
        done = subprocess.run(
            [sys.executable, "-m", "limner.cluster", verb, "--help"], env={"PYTHONPATH": str(ROOT / "src")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"usage: limner cluster {verb}" in done.stdout and f"  {verb} " in overview


def test_the_verbs_can_be_mounted_in_a_typer_program(fake: FakeSlurm) -> None:
    import typer
    from typer.testing import CliRunner

    from limner.cluster.cli import app

    fake.says("sinfo", SINFO)
    program = typer.Typer()
    program.add_typer(app, name="cluster")
    program.command("other")(lambda: None)
    done = CliRunner().invoke(program, ["cluster", "gpus", "--type", "a100", "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["nodes"]) == 3
    assert isinstance(CliRunner().invoke(program, ["cluster", "gpus", "--type", "h1"]).exception, ClusterError)
    shown = CliRunner().invoke(program, ["cluster", "--help"]).stdout
    assert all(verb in shown for verb in VERBS)


def test_options_that_do_not_exist_and_verbs_that_are_misspelt_are_told(fake: FakeSlurm) -> None:
    done = fake.run("gpu")
    assert done.returncode == 2 and "Did you mean 'gpus'" in done.stderr
    done = fake.run("gpus", "--tpye", "a100")
    assert done.returncode == 2 and "--tpye" in done.stderr
    assert fake.run("logs", "1", "-n", "-5").returncode == 2
