"""Jobs as Slurm's queue shows them, and its reasons for waiting in words.

Reads `squeue -O` rows, `scontrol show job` text, and the JSON of Slurm 22.05 to 25.x.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from limner.cluster import gres, slurm
from limner.cluster.readers import key_values, plain
from limner.errors import ClusterError, shorten

FIELDS = (
    "JobArrayID", "State", "Reason", "Partition", "UserName", "NumNodes", "NumCPUs", "tres-alloc", "tres-per-node",
    "TimeUsed", "TimeLimit", "StartTime", "NodeList", "Name",
)  # fmt: skip
FORMAT = ",".join(f"{field}:|" for field in FIELDS)
_OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
})  # fmt: skip

_REASONS = (  # the beginning of Slurm's reason -> words; the first that fits is told
    ("Resources", "waits for free resources; it is next in line"),
    ("Priority", "waits behind jobs of higher priority"),
    ("Dependency", "waits for the job that it depends on"),
    ("DependencyNeverSatisfied", "will never start: the job that it depends on failed. Cancel it"),
    ("BeginTime", "waits for its start time (after a requeue: about two minutes)"),
    ("JobHeldUser", "is held by you: scontrol release JOB"),
    ("JobHeldAdmin", "is held by an administrator"),
    ("ReqNodeNotAvail", "waits for a node that is down, draining or reserved"),
    ("Nodes required for job are", "waits for nodes that are down, draining or reserved"),
    ("Reservation", "waits for a reservation"),
    ("QOSGrp", "waits because your group's limit (QOS) is used up"),
    ("QOSMax", "asks for more than your QOS allows at once"),
    ("QOS", "is held back by a limit of its QOS"),
    ("Assoc", "is held back by a limit of your account"),
    ("MaxGRES", "asks for more GPUs than you may have at once"),
    ("PartitionTimeLimit", "asks for more time than the partition gives: it will never start"),
    ("PartitionNodeLimit", "asks for more nodes than the partition has: it will never start"),
    ("PartitionConfig", "asks for what the partition does not give (time, nodes, CPUs): it will never start"),
    ("PartitionDown", "waits because its partition is closed for now"),
    ("PartitionInactive", "waits because its partition is closed for now"),
    ("BadConstraints", "asks for what no node has: it will never start"),
    ("JobArrayTaskLimit", "waits because enough tasks of its array run already"),
    ("Licenses", "waits for a licence"),
    ("Prolog", "prepares its nodes"),
    ("InvalidQOS", "names a QOS that does not exist: it will never start"),
    ("InvalidAccount", "names an account that does not exist: it will never start"),
    ("launch failed", "could not be started on its node"),
    ("None", "has just been submitted; Slurm has not looked at it yet"),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One job or array task. Times in seconds, `limit` None when there is none; `start` is Slurm's estimate while it
    waits.
    """

    id: str
    name: str
    state: str
    reason: str = ""
    partition: str = ""
    user: str = ""
    num_nodes: int = 0
    cpus: int = 0
    gpus: int = 0
    elapsed: int = 0
    limit: int | None = None
    start: str = ""
    nodes: str = ""

    @property
    def pending(self) -> bool:
        """Whether it waits (also after a requeue)."""
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUE_FED")

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.state in ("RUNNING", "STAGE_OUT", "SIGNALING")

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in _OVER

    @property
    def never_starts(self) -> bool:
        """Whether it waits for something that cannot come."""
        return self.pending and ("never" in explain(self.reason) or self.reason.startswith(("BadConstraints", "DependencyNever")))

    def as_dict(self) -> dict[str, object]:
        """Return the job as plain data for `--json`, the reason in words added."""
        return {**asdict(self), "explanation": explain(self.reason) if self.pending else ""}


def explain(reason: str) -> str:
    """Return Slurm's reason for waiting in words; an unknown one is given as it is."""
    reason = reason.strip("()")
    exact = [words for sign, words in _REASONS if reason == sign]
    begun = [words for sign, words in _REASONS if reason.startswith(sign)]
    return (exact or begun or [f"waits ({reason})"])[0]


def read_jobs(*, mine: bool = True, ids: str = "", over: bool = False) -> list[Job]:
    """Return the jobs in Slurm's queue: yours, everybody's, or those of `ids` (comma-separated).

    Arguments:
        over: also those that ended a few minutes ago.
    Raises: ClusterError, also for an id that Slurm does not know.
    """
    args = ["squeue", "-h", "-r", "-O", FORMAT]
    args += ["--me"] if mine and not ids else []
    args += ["-j", ids] if ids else []
    args += ["-t", "all"] if over else []
    return parse_squeue(slurm.ask(args))


def find_job(job: str) -> Job:
    """Return one job, also one that ended some minutes ago.

    Raises: ClusterError when `job` is no job id or Slurm knows it no more.
    """
    check_id(job)
    found = [entry for entry in read_jobs(mine=False, ids=job, over=True) if job in (entry.id, entry.id.partition("_")[0])]
    if not found:
        raise ClusterError(f"there is no job {job} in Slurm's queue, and none that ended just now.\nTry: limner cluster status")
    return next((entry for entry in found if not entry.over), found[0])


def check_id(job: str) -> str:
    """Return `job` when it is a job id, `123` or `123_4`; raise ClusterError otherwise."""
    if not re.fullmatch(r"\d{1,12}(_\d{1,9})?", job, re.ASCII):
        raise ClusterError(f"{shorten(job)} is no job id: they look like 123, or 123_4 in an array.\nTry: limner cluster status")
    return job


def estimate(job: str) -> str:
    """Return Slurm's own estimate of when a waiting job starts, `2026-01-31T12:00:00`, or "" when it has none."""
    try:
        return parse_squeue(slurm.ask(["squeue", "-h", "--start", "-j", job, "-O", FORMAT]))[0].start
    except (ClusterError, IndexError):
        return ""


def parse_squeue(text: str) -> list[Job]:
    """Return the jobs of `squeue -h -O FORMAT`.

    Raises: ClusterError when a row cannot be read.
    """
    jobs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("|", len(FIELDS) - 1)]
        if len(cells) != len(FIELDS) or not re.fullmatch(r"\d{1,12}(_\S{1,2000})?(\+\d+)?", cells[0], re.ASCII):
            raise ClusterError(f"cannot read this: `squeue` line {number}: {shorten(line, 120)}.")
        if not re.fullmatch(r"[A-Z_]+", cells[1]) or not cells[5].isdecimal() or not cells[6].isdecimal():
            raise ClusterError(f"cannot read this: `squeue` line {number}: {shorten(line, 120)}.")
        num_nodes = int(cells[5])
        jobs.append(
            Job(
                id=cells[0],
                name=cells[13].removesuffix("|"),
                state=cells[1],
                reason=cells[2].strip("()"),
                partition=cells[3],
                user=cells[4],
                num_nodes=num_nodes,
                cpus=int(cells[6]),
                gpus=_gpus(cells[7], cells[8], num_nodes),
                elapsed=seconds(cells[9]) or 0,
                limit=seconds(cells[10]),
                start="" if cells[11] in ("N/A", "NONE", "Unknown", "") else cells[11],
                nodes="" if cells[12] in ("(null)", "None") else cells[12],
            )
        )
    return jobs


def _gpus(allocated: str, per_node: str, num_nodes: int) -> int:
    """GPUs of a job: as allocated where the site counts them, else per node times nodes."""
    counted = gres.count_gpus(gres.parse_tres(allocated)) if "=" in allocated else 0
    asked = gres.count_gpus(gres.parse(per_node)) if ":" in per_node or "/" in per_node else 0
    return counted or asked * num_nodes


def seconds(text: str) -> int | None:
    """Return `2-03:04:05`, `04:05` or `1:00:00` in seconds; None for UNLIMITED and the like.

    Raises: ClusterError when it is no duration.
    """
    text = text.strip()
    if text in ("UNLIMITED", "INVALID", "NOT_SET", "Partition_Limit", "N/A", "NONE", ""):
        return None
    match = re.fullmatch(r"(?:(\d{1,6})-)?(?:(\d{1,6}):)?(\d{1,6}):(\d{1,2})", text, re.ASCII)
    if match is None:
        raise ClusterError(f"cannot read this duration: {shorten(text)}.")
    days, hours, minutes, secs = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + secs


def show(job: str) -> dict[str, str]:
    """Return the fields of `scontrol show job`: StdOut, WorkDir, Restarts, ...

    Raises: ClusterError when Slurm knows the job no more.
    """
    fields = key_values(slurm.ask(["scontrol", "show", "job", check_id(job)]))
    if "JobId" not in fields:
        raise ClusterError(f"cannot read this: `scontrol show job {job}` has no JobId.")
    return fields


def parse_json(text: str) -> list[Job]:
    """Return the jobs of `squeue --json`, Slurm 22.05 to 25.x: states as text or list, nodes as text or object,
    wrapped numbers.

    Raises: ClusterError when it cannot be read.
    """
    try:
        entries = json.loads(text)["jobs"]
        return [_json_job(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ClusterError(f"cannot read this JSON from squeue: {type(error).__name__}: {shorten(str(error))}.") from error


def _json_job(entry: Mapping[str, Any]) -> Job:
    state = entry["job_state"]
    nodes = entry.get("nodes") or ""
    if isinstance(nodes, Mapping):  # 24.05: an object
        nodes = nodes.get("list") or nodes.get("nodes") or ""
    minutes = plain(entry.get("time_limit"))
    array, task = plain(entry.get("array_job_id")) or 0, plain(entry.get("array_task_id"))
    num_nodes = int(plain(entry.get("node_count")) or 0)
    return Job(
        id=f"{int(array)}_{int(task)}" if array and task is not None else str(int(plain(entry["job_id"]))),
        name=str(entry.get("name") or ""),
        state=str(state if isinstance(state, str) else state[0]),
        reason=str(entry.get("state_reason") or ""),
        partition=str(entry.get("partition") or ""),
        user=str(entry.get("user_name") or ""),
        num_nodes=num_nodes,
        cpus=int(plain(entry.get("cpus")) or 0),
        gpus=_gpus(str(entry.get("tres_alloc_str") or ""), str(entry.get("tres_per_node") or ""), num_nodes),
        limit=int(minutes) * 60 if minutes is not None else None,
        nodes=str(nodes),
    )
