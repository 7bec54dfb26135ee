"""A real Slurm of two nodes with pretend GPUs, started in a temporary folder and stopped by its pid files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NODES = ("n1", "n2")
GPUS_PER_NODE = 2

CONFIG = """\
ClusterName=limner-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MaxJobCount={max_jobs}
MaxArraySize=60
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=200000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
KillWait=20
MinJobAge=600
MessageTimeout=20
SlurmctldTimeout=120
SlurmdTimeout=300
InactiveLimit=0
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000 Gres=gpu:a100:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000 Gres=gpu:a100:2
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=2-00:00:00 State=UP PriorityTier=1 OverSubscribe=NO
PartitionName=also Nodes=n[1-2] Default=NO MaxTime=1:00:00 State=UP PriorityTier=1 OverSubscribe=NO
PartitionName=high Nodes=n[1-2] Default=NO MaxTime=1:00:00 State=UP PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """Starts, asks and stops the cluster; `environment` is what a user's shell would hold."""

    def __init__(self, *, max_jobs: int = 5000) -> None:
        self.max_jobs = max_jobs
        self.folder = Path(tempfile.mkdtemp(prefix="limner-slurm-"))
        self.folder.chmod(0o755)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def start(self) -> None:
        """Write the configuration, start one slurmctld and two slurmd, and wait until both nodes are idle."""
        host = socket.gethostname().split(".")[0]
        ports = free_ports(3)
        for name in ("state", "spool-n1", "spool-n2", "home"):
            (self.folder / name).mkdir()
        gres = []
        for node in NODES:
            for index in range(GPUS_PER_NODE):
                (self.folder / f"{node}-gpu{index}").touch()
            gres.append(f"NodeName={node} Name=gpu Type=a100 File={self.folder}/{node}-gpu[0-{GPUS_PER_NODE - 1}]")
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")
        (self.folder / "slurm.conf").write_text(CONFIG.format(host=host, ports=ports, folder=self.folder, max_jobs=self.max_jobs))
        self.call("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        self.until(lambda: self.states() == {"n1": "idle", "n2": "idle"}, seconds=60, what="two idle nodes")

    def start_node(self, node: str) -> None:
        self.call("slurmd", "-c", "-N", node)

    def stop_node(self, node: str) -> None:
        self._end(self.folder / f"slurmd-{node}.pid")

    def stop(self) -> None:
        """Cancel every job, end the three daemons by their pid files, remove the folder."""
        self.call("scancel", "-u", "root", check=False)
        self.call("scontrol", "shutdown", check=False)
        time.sleep(1.0)
        for node in NODES:
            self._end(self.folder / f"slurmd-{node}.pid")
        self._end(self.folder / "slurmctld.pid")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, pid_file: Path) -> None:
        try:
            pid = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    pid_file.unlink(missing_ok=True)
                    return
                time.sleep(0.3)

    def call(self, *args: str, check: bool = True, **more: str) -> str:
        done = subprocess.run(
            args,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise RuntimeError(f"{args} ended with {done.returncode}: {done.stdout} {done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        rows = self.call("sinfo", "-h", "-N", "-o", "%N %t", check=False).split("\n")
        return dict(row.split() for row in rows if row.strip())

    def job_state(self, job: str) -> str:
        """The first state that `scontrol` gives for the job (for an array: of any task)."""
        text = self.call("scontrol", "show", "job", job, check=False)
        return text.partition("JobState=")[2].split(" ")[0]

    def hold(self, gpus: int, node: str, seconds: int = 600) -> str:
        """Occupy GPUs of one node; give the job's id once it runs."""
        job = self.call(
            "sbatch", "--parsable", "-w", node, f"--gres=gpu:a100:{gpus}", "-c1", "--mem=50", "-o", "/dev/null",
            "--wrap", f"sleep {seconds}",
        ).strip()  # fmt: skip
        self.until(lambda: self.job_state(job) == "RUNNING", what=f"job {job} running")
        return job

    def clear(self) -> None:
        """Cancel all jobs and bring both nodes back."""
        self.call("scancel", "-u", "root", check=False)
        self.until(lambda: not self.call("squeue", "-h").strip(), seconds=90, what="an empty queue")
        for node in NODES:
            if self.states().get(node) != "idle":
                self.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self.until(lambda: set(self.states().values()) == {"idle"}, seconds=60, what="idle nodes")

    @staticmethod
    def until(true: Callable[[], bool], *, seconds: float = 60, what: str = "") -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}")
            time.sleep(0.3)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, below the ephemeral range."""
    found: list[int] = []
    port = 20_000 + os.getpid() % 10_000
    while len(found) < count:
        port += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found
