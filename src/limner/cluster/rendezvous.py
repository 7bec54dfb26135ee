"""Where the ranks of one job meet: Slurm's variables turned into torch's, without a launcher in between.

The job script runs `python -m limner.cluster.rendezvous` on the first node, which prints `export MASTER_ADDR=...
MASTER_PORT=...` for all ranks to inherit. `environment()` then gives each rank its own numbers.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping

from limner.cluster.nodelist import expand
from limner.errors import ClusterError, shorten

FIRST_PORT = 10_000
NUM_PORTS = 20_000


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT of this rank.

    MASTER_ADDR and MASTER_PORT are kept where the job script has set them; else they follow from the node list and
    the job id, the same on every rank. Raises: ClusterError when a variable of Slurm's is missing or no number.
    """
    rank = _number(environ, "SLURM_PROCID")
    world = _number(environ, "SLURM_NTASKS")
    if rank >= world:
        raise ClusterError(f"Slurm says rank {rank} of {world}: SLURM_PROCID and SLURM_NTASKS do not belong together.")
    job = _number(environ, "SLURM_JOB_ID")
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(_number(environ, "SLURM_LOCALID")),
        "LOCAL_WORLD_SIZE": str(_local_size(environ, world)),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or first_node(environ),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(port_of(job)),
    }


def first_node(environ: Mapping[str, str]) -> str:
    """Return the job's first node, where rank 0 runs.

    Raises: ClusterError when Slurm's variables name none.
    """
    text = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST") or ""
    names = expand(text)
    if not names:
        raise ClusterError("SLURM_JOB_NODELIST is empty: this is not inside a Slurm job.\nTry: limner cluster submit RECIPE")
    return names[0]


def port_of(job: int) -> int:
    """Return the port that belongs to a job id: 10000 + id modulo 20000, below the range of outgoing connections."""
    return FIRST_PORT + job % NUM_PORTS


def choose_port(job: int) -> int:
    """Return the first port from the job's own upwards that can be bound on this host now.

    Raises: ClusterError when a hundred in a row are taken.
    """
    for step in range(100):
        port = FIRST_PORT + (job + step) % NUM_PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ClusterError(f"no free port from {port_of(job)} on {socket.gethostname()} for the ranks to meet at.")


def choose_address(environ: Mapping[str, str]) -> str:
    """Return an address of the job's first node that its other nodes can use: its name, else Slurm's address for it."""
    name = first_node(environ)
    if _resolves(name):
        return name
    from limner.cluster import slurm

    try:
        found = re.search(r"NodeAddr=(\S+)", slurm.ask(["scontrol", "show", "node", name], timeout=10))
    except ClusterError:
        found = None
    if found and _resolves(found[1]):
        return found[1]
    return socket.gethostname()


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def _local_size(environ: Mapping[str, str], world: int) -> int:
    """Tasks on this node, from SLURM_STEP_TASKS_PER_NODE such as `2(x3),1`."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or str(world)
    sizes: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part.strip(), re.ASCII)
        if match is None:
            raise ClusterError(f"cannot read SLURM_TASKS_PER_NODE={shorten(text)}; it looks like 2(x3),1.")
        sizes += [int(match[1])] * int(match[2] or 1)
    node = int(environ.get("SLURM_NODEID") or 0)
    return sizes[node] if node < len(sizes) else sizes[0]


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        given = f"is {shorten(text)}" if text else "is not set"
        raise ClusterError(
            f"{name} {given}: this is not inside a Slurm step. Start ranks with srun, or leave Slurm's variables out."
        )
    return int(text)


def main() -> int:
    """Print the shell line that the job script evaluates; 2 with the reason on stderr when it cannot."""
    try:
        address, port = choose_address(os.environ), choose_port(_number(os.environ, "SLURM_JOB_ID"))
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"export MASTER_ADDR={address} MASTER_PORT={port}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
