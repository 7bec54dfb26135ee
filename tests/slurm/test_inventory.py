"""`gpus` and `nodes` against what `scontrol` says, while jobs hold 0 to all GPUs, and nodes drain, go down and are
reserved.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from .conftest import Shell
from .control import SlurmCluster

pytestmark = pytest.mark.slurm


def truth(slurm: SlurmCluster, node: str) -> tuple[int, int]:
    """GPUs in use and in all, read from `scontrol -d` by a pattern of the test's own."""
    text = slurm.call("scontrol", "show", "node", "-d", node)
    used = re.search(r"GresUsed=gpu:a100:(\d+)", text)
    total = re.search(r"Gres=gpu:a100:(\d+)", text)
    assert used and total
    return int(used[1]), int(total[1])


def node_of(data: Any, name: str) -> Any:
    return next(node for node in data["nodes"] if node["name"] == name)


def test_gpus_agrees_with_scontrol_from_none_to_all_in_use(slurm: SlurmCluster, shell: Shell) -> None:
    for held in range(5):
        if held:
            slurm.hold(1, "n1" if held <= 2 else "n2")
        data = shell.data("gpus")
        for name in ("n1", "n2"):
            gpu = node_of(data, name)["gpus"][0]
            assert (gpu["used"], gpu["total"]) == truth(slurm, name)
            assert gpu["free"] == gpu["total"] - gpu["used"]
        assert data["totals"] == [{"type": "a100", "free": 4 - held, "used": held, "away": 0, "total": 4}]
    text = shell.limner("gpus")
    assert "No GPU is free" in text and "limner cluster jupyter gpu" in text


def test_drained_down_and_reserved_nodes_are_not_free(slurm: SlurmCluster, shell: Shell) -> None:
    slurm.hold(1, "n1")
    slurm.call("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=fan | broken")
    draining = node_of(shell.data("gpus"), "n1")
    assert draining["gpus"][0] == {"type": "a100", "total": 2, "used": 1, "shared": 0, "free": 0}
    assert draining["reason"] == "fan | broken"
    slurm.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=power")
    data = shell.data("gpus")
    assert data["totals"] == [{"type": "a100", "free": 0, "used": 1, "away": 3, "total": 4}]
    assert "fan | broken" in shell.limner("nodes") and "power" in shell.limner("nodes")
    slurm.call("scontrol", "update", "NodeName=n2", "State=RESUME")
    slurm.until(lambda: slurm.states()["n2"] == "idle", what="n2 idle")
    for flags in ("flags=maint", ""):
        words = ["user=root", "starttime=now", "duration=10", "nodes=n2", "reservationname=test"]
        slurm.call("scontrol", "create", "reservation", *words, *filter(None, [flags]))
        try:
            slurm.until(lambda: node_of(shell.data("gpus"), "n2")["gpus"][0]["free"] == 0, seconds=90, what="n2 reserved")
        finally:
            slurm.call("scontrol", "delete", "reservationname=test")
        slurm.until(lambda: node_of(shell.data("gpus"), "n2")["gpus"][0]["free"] == 2, seconds=90, what="n2 free")


def test_a_node_that_stops_answering_is_not_free(slurm: SlurmCluster, shell: Shell) -> None:
    slurm.stop_node("n2")
    try:
        slurm.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=gone")
        assert node_of(shell.data("gpus"), "n2")["available"] is False
    finally:
        slurm.start_node("n2")
        slurm.call("scontrol", "update", "NodeName=n2", "State=RESUME", check=False)  # it may be back by itself
    slurm.until(lambda: node_of(shell.data("gpus"), "n2")["available"], what="n2 back")


def test_text_and_json_of_this_slurm_are_read_alike(slurm: SlurmCluster) -> None:
    from limner.cluster import readers

    slurm.hold(1, "n1")
    by_sinfo = readers.parse_sinfo(slurm.call("sinfo", "-a", "-h", "-N", "-O", readers.SINFO_FORMAT))
    assert readers.parse_scontrol(slurm.call("scontrol", "show", "node", "-d")) == by_sinfo
    assert readers.parse_scontrol(slurm.call("scontrol", "show", "node", "-d", "-o")) == by_sinfo
    by_json = readers.parse_json(slurm.call("sinfo", "--json"))
    assert [(n.name, n.gpus, n.cpus_used, n.state[0]) for n in by_json] == [
        (n.name, n.gpus, n.cpus_used, n.state[0]) for n in by_sinfo
    ]


def test_the_recommended_command_works(shell: Shell) -> None:
    command = shell.data("gpus")["recommendation"]["command"].split()
    assert command[:2] == ["limner", "cluster"]
    out = shell.limner(*command[2:], "--help")
    assert "usage" in out


def test_unknown_nodes_and_types_are_told(shell: Shell) -> None:
    assert "no node 'n7'" in shell.limner("nodes", "n7", code=2)
    assert "It has: a100" in shell.limner("gpus", "--type", "h100", code=2)


def test_profile_is_found_from_the_live_cluster_and_written_once(shell: Shell) -> None:
    found = shell.data("profile")
    assert (found["name"], found["gpu_partition"]) == ("limner-test", "main")
    shell.limner("profile", "--init")
    assert "is there already" in shell.limner("profile", "--init", code=2)
    assert "from cluster.yaml" in shell.limner("profile")


def test_watch_shows_the_page_again_and_ends_on_ctrl_c(shell: Shell) -> None:
    import signal
    import time

    process = shell.start("gpus", "--watch", "0.5")
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out.count("n1 ") >= 2, err
