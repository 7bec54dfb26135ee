"""Slurm's variables become torch's; all ranks agree on where they meet."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.cluster import rendezvous
from limner.errors import ClusterError

from .conftest import FakeSlurm


def slurm(rank: int = 5, **more: str) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank), "SLURM_NTASKS": "8", "SLURM_LOCALID": str(rank % 4), "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_NODEID": str(rank // 4), **more,
    }  # fmt: skip


def test_a_rank_knows_its_place() -> None:
    assert rendezvous.environment(slurm()) == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(10_000 + 123456 % 20_000),
    }  # fmt: skip


def test_what_the_job_script_chose_is_kept() -> None:
    found = rendezvous.environment(slurm(MASTER_ADDR="10.0.0.1", MASTER_PORT="12345"))
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "12345")


def test_uneven_nodes_have_their_own_local_size() -> None:
    uneven = {"SLURM_STEP_TASKS_PER_NODE": "3(x2),2", "SLURM_JOB_NODELIST": "a,b,c"}
    sizes = [rendezvous.environment(slurm(SLURM_NODEID=str(node), **uneven))["LOCAL_WORLD_SIZE"] for node in range(3)]
    assert sizes == ["3", "3", "2"]


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 64))
def test_all_ranks_agree(job: int, world: int) -> None:
    found = [rendezvous.environment(slurm(rank, SLURM_JOB_ID=str(job), SLURM_NTASKS=str(world))) for rank in range(world)]
    assert len({(f["MASTER_ADDR"], f["MASTER_PORT"], f["WORLD_SIZE"]) for f in found}) == 1
    assert 10_000 <= int(found[0]["MASTER_PORT"]) < 30_000
    assert [f["RANK"] for f in found] == [str(rank) for rank in range(world)]


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_JOB_NODELIST"])
@pytest.mark.parametrize("value", ["", "x", "-1"])
def test_missing_or_strange_variables_are_told(name: str, value: str) -> None:
    if name == "SLURM_JOB_NODELIST" and value:
        value = "n[1"
    with pytest.raises(ClusterError, match=r"SLURM|cannot read"):
        rendezvous.environment(slurm(**{name: value}))


def test_a_rank_beyond_the_world_is_told() -> None:
    with pytest.raises(ClusterError, match="rank 8 of 8"):
        rendezvous.environment(slurm(8))


def test_a_port_that_is_taken_is_passed_over() -> None:
    job = 4321
    with socket.socket() as holder:
        holder.bind(("", rendezvous.choose_port(job)))
        first = int(holder.getsockname()[1])
        assert rendezvous.choose_port(job) == first + 1


def test_a_node_without_a_name_is_reached_by_its_slurm_address(fake: FakeSlurm) -> None:
    fake.says("scontrol", "NodeName=zz1 NodeAddr=127.0.0.1 NodeHostName=vm\n")
    environ = {"SLURM_JOB_NODELIST": "no-such-host-zz[1-2]"}
    assert rendezvous.choose_address(environ) == "127.0.0.1"
    assert rendezvous.choose_address({"SLURM_JOB_NODELIST": "localhost"}) == "localhost"


def test_without_scontrol_the_first_node_is_this_host(fake: FakeSlurm) -> None:
    assert rendezvous.choose_address({"SLURM_JOB_NODELIST": "no-such-host-zz[1-2]"}) == socket.gethostname()
