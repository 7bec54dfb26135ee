"""What Slurm prints, in the shapes of its versions. Made for these tests; field names are Slurm's."""

from __future__ import annotations

import json
from typing import Any

SINFO = """\
g1|gpu*|mixed|gpu:a100:8(S:0-1)|gpu:a100:3(IDX:0-2)|24/40/0/64|1031000|300000|a100,nvlink|none|
g1|all|mixed|gpu:a100:8(S:0-1)|gpu:a100:3(IDX:0-2)|24/40/0/64|1031000|300000|a100,nvlink|none|
g2|gpu*|idle+drain|gpu:a100:8(S:0-1)|gpu:a100:0(IDX:N/A)|0/0/64/64|1031000|0|a100|fan | broken|
g3|gpu*|allocated|gpu:v100:4|gpu:v100:1(IDX:0)|64/0/0/64|515000|515000|v100|none|
g4|old|idle|gpu:2|gpu:0|0/16/0/16|64000|0|(null)|none|
g5|old|down*|gpu:titan:2|gpu:titan:0(IDX:N/A)|0/0/16/16|64000|0|(null)|Not responding|
m1|mig|mixed|gpu:a100_1g.5gb:7,gpu:a100_3g.20gb:2|gpu:a100_1g.5gb:2(IDX:0,3),gpu:a100_3g.20gb:0(IDX:N/A)|4/60/0/64|515000|1|mig|none|
s1|shard|mixed|gpu:l4:4,shard:l4:32|gpu:l4:1(IDX:0),shard:l4:3(0/8,2/8,1/8,0/8)|4/60/0/64|515000|1|(null)|none|
c1|cpu|idle~|(null)|(null)|0/128/0/128|257000|0|cloud|none|
"""

SCONTROL = """\
NodeName=g1 Arch=x86_64 CoresPerSocket=32
   CPUAlloc=24 CPUEfctv=64 CPUTot=64 CPULoad=3.10
   AvailableFeatures=a100,nvlink
   ActiveFeatures=a100,nvlink
   Gres=gpu:a100:8(S:0-1)
   GresDrain=N/A
   GresUsed=gpu:a100:3(IDX:0-2)
   NodeAddr=g1 NodeHostName=g1 Version=23.02.6
   OS=Linux 5.14.0 #1 SMP
   RealMemory=1031000 AllocMem=300000 FreeMem=-2 Sockets=2 Boards=1
   State=MIXED ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Partitions=gpu,all
   CfgTRES=cpu=64,mem=1031000M,billing=64,gres/gpu=8,gres/gpu:a100=8
   AllocTRES=cpu=24,mem=300000M,gres/gpu=3,gres/gpu:a100=3

NodeName=g2 Arch=x86_64 CoresPerSocket=32
   CPUAlloc=0 CPUTot=64 CPULoad=0.00
   AvailableFeatures=a100
   Gres=gpu:a100:8(S:0-1)
   GresUsed=gpu:a100:0(IDX:N/A)
   RealMemory=1031000 AllocMem=0 FreeMem=1000 Sockets=2 Boards=1
   State=IDLE+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1
   Partitions=gpu
   Reason=fan broken [root@2026-01-01T10:00:00]
"""


def number(value: int, version: str) -> Any:
    """A count as that version writes it."""
    return value if version < "23.02" else {"set": True, "infinite": False, "number": value}


def node_json(version: str) -> str:
    """`sinfo --json` of 22.05, or `scontrol show nodes --json` of later versions."""
    state: dict[str, Any] = {"state": "mixed", "state_flags": []}
    if version >= "23.02":
        state = {"state": ["MIXED"]}
    node = {
        "name": "g1", **state, "gres": "gpu:a100:8(S:0-1)", "gres_used": "gpu:a100:3(IDX:0-2)",
        "cpus": 64, "alloc_cpus": 24,
        "real_memory": 1031000, "alloc_memory": 300000, "free_memory": -2, "cpu_load": 4294967294,
        "partitions": ["gpu", "all"], "features": "a100,nvlink" if version < "23.11" else ["a100",
        "nvlink"], "reason": "",
        "free_mem": number(1000, version),
    }  # fmt: skip
    drained = {
        **node,
        "name": "g2",
        "gres_used": "gpu:a100:0",
        "alloc_cpus": 0,
        "alloc_memory": 0,
        "partitions": ["gpu"],
    }
    drained.update({"state": "idle", "state_flags": ["DRAIN"]} if version < "23.02" else {"state": ["IDLE", "DRAIN"]})
    return json.dumps({"meta": {}, "errors": [], "nodes": [node, drained]})


def rows_json() -> str:
    """`sinfo --json` from 23.11 on: rows of nodes that are alike."""

    def row(names: list[str], state: list[str], used: str, cpus: int, partition: str) -> dict[str, Any]:
        return {
            "node": {"state": state},
            "nodes": {"allocated": 0, "idle": 0, "total": len(names), "nodes": names},
            "cpus": {"allocated": cpus * len(names), "idle": 0, "total": 64 * len(names)},
            "memory": {"minimum": 1031000, "maximum": 1031000, "allocated": 0},
            "gres": {"total": "gpu:a100:8", "used": used}, "partition": {"name": partition, "alternate": ""},
        }  # fmt: skip

    return json.dumps({
        "sinfo": [
            row(["g1"], ["MIXED"], "gpu:a100:3", 24, "gpu"),
            row(["g1"], ["MIXED"], "gpu:a100:3", 24, "all"),
            row(["g[2-3]"], ["IDLE", "DRAIN"], "gpu:a100:0", 0, "gpu"),
        ]
    })  # fmt: skip


def job_json(version: str) -> str:
    """`squeue --json`: job_state as text or list, nodes as text or object, numbers plain or wrapped."""
    job = {
        "job_id": 77, "name": "x", "job_state": "RUNNING" if version < "23.11" else ["RUNNING"], "state_reason": "None",
        "partition": "gpu", "user_name": "me", "node_count": number(2, version), "cpus": number(8, version),
        "tres_alloc_str": "cpu=8,node=2,gres/gpu=4,gres/gpu:a100=4", "tres_per_node": "gres:gpu:a100:2",
        "nodes": "g[1-2]" if version < "24.05" else {"count": 2, "list": "g[1-2]"},
        "time_limit": number(60, version), "array_job_id": number(0, version), "array_task_id": None,
    }  # fmt: skip
    if version >= "23.02":
        job["array_task_id"] = {"set": False, "infinite": False, "number": 0}
    return json.dumps({"meta": {}, "jobs": [job]})


SQUEUE = """\
101|RUNNING|None|gpu|me|2|16|cpu=16,mem=8G,node=2,billing=16,gres/gpu=4,gres/gpu:a100=4|gres:gpu:a100:2|1-02:03:04|2-00:00:00|2026-01-31T10:00:00|g[1-2]|train|
102|PENDING|Resources|gpu|me|1|4|cpu=4|gres/gpu:2|0:00|8:00:00|2026-02-01T10:00:00||a name | with bars|
103_7|PENDING|(Priority)|gpu|me|1|4|cpu=4||0:00|UNLIMITED|N/A||sweep|
104|COMPLETED|None|cpu|me|1|4|cpu=4|N/A|12:01|1:00:00|2026-01-31T10:00:00|c1|done|
"""


def big_sinfo(num: int) -> str:
    """`sinfo` of a cluster of `num` nodes in three partitions."""
    lines = []
    states = ("idle", "mixed", "allocated", "idle+drain", "down*", "mixed+planned")
    for i in range(num):
        used = i % 9
        for partition in ("gpu*", "all", "low"):
            lines.append(
                f"node{i:04}|{partition}|{states[i % 6]}|gpu:a100:8(S:0-1)|gpu:a100:{used}(IDX:0-{used})|"
                f"{i % 64}/{64 - i % 64}/0/64|1031000|{i}|a100,nvlink|none|"
            )
    return "\n".join(lines) + "\n"
