"""What the cluster has and what is free of it now: nodes, GPUs, classes of nodes, and a recommendation that is a
command.

The truth about GPUs is what Slurm has allocated (`GresUsed`), on nodes that can start a job at all. A free GPU on a
node without a free CPU or memory is not free. Next: `readers.py` for Slurm's words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from limner.cluster import slurm
from limner.cluster.nodes import Node
from limner.cluster.readers import SINFO_FORMAT, parse_json, parse_scontrol, parse_sinfo
from limner.errors import ClusterError, nearest

Read = list[Node]


def read_nodes() -> Read:
    """Return the nodes of the live cluster, asked by `sinfo -O`, else `scontrol`, else `scontrol --json`.

    Raises: ClusterError when there is no Slurm, it does not answer, or nothing that it says can be read.
    """
    try:
        nodes = parse_sinfo(slurm.ask(["sinfo", "-a", "-h", "-N", "-O", SINFO_FORMAT]))
    except ClusterError as first:
        if isinstance(first, slurm.SlurmError) and "format" not in first.stderr.lower():
            raise
        if not isinstance(first, slurm.SlurmError) and not str(first).startswith("cannot read"):
            raise
        try:
            nodes = parse_scontrol(slurm.ask(["scontrol", "show", "node", "-d", "-o"]))
        except ClusterError:
            try:
                nodes = parse_json(slurm.ask(["scontrol", "show", "nodes", "--json"]))
            except ClusterError:
                raise first from None
    if not nodes:
        raise ClusterError("Slurm answers but shows no node to you.\nTry: sinfo -a")
    return nodes


def find_node(nodes: Iterable[Node], name: str) -> Node:
    """Return the node called `name`; raise ClusterError naming the nearest and the next command."""
    table = {node.name: node for node in nodes}
    if name not in table:
        raise ClusterError(
            f"this cluster has no node {name!r}.{nearest(name, table)}\nIt has {len(table)} nodes. Try: limner cluster nodes"
        )
    return table[name]


def of_type(nodes: Iterable[Node], kind: str) -> Read:
    """Return the nodes with GPUs whose type holds `kind`, their other GPUs left out.

    Raises: ClusterError when the cluster has no such type.
    """
    nodes = list(nodes)
    wanted = kind.lower()
    found = []
    for node in nodes:
        gpus = tuple(gpu for gpu in node.gpus if wanted in gpu.type.lower())
        if gpus:
            found.append(Node(**{**vars(node), "gpus": gpus}))
    if not found:
        types = sorted({gpu.type for node in nodes for gpu in node.gpus})
        have = f"It has: {', '.join(types)}." if types else "It has no GPUs."
        raise ClusterError(f"this cluster has no GPU of type {kind!r}.{nearest(kind, types)} {have}\nTry: limner cluster gpus")
    return found


@dataclass(frozen=True)
class Total:
    """GPUs of one type over the cluster; `away` are on nodes that cannot start a job now."""

    type: str
    free: int
    used: int
    away: int
    total: int


def totals(nodes: Iterable[Node]) -> list[Total]:
    """Return GPUs by type, most first. free + used + away = total."""
    sums: dict[str, list[int]] = {}
    for node in nodes:
        for gpu in node.gpus:
            row = sums.setdefault(gpu.type, [0, 0, 0])
            busy = gpu.used + gpu.shared
            row[1] += busy
            row[0 if node.open else 2] += gpu.total - busy
    found = [Total(kind, free, used, away, free + used + away) for kind, (free, used, away) in sums.items()]
    return sorted(found, key=lambda total: (-total.total, total.type))


@dataclass(frozen=True)
class NodeClass:
    """Nodes that are alike: GPUs, CPUs, memory; and what such a node is good for on this cluster."""

    gpu_type: str
    gpus: int
    cpus: int
    memory: int
    nodes: tuple[Node, ...]
    good_for: str = ""

    @property
    def gpus_free(self) -> int:
        """GPUs that jobs could get in this class now."""
        return sum(node.gpus_free for node in self.nodes)

    @property
    def open(self) -> int:
        """Nodes of the class with room for a job now."""
        return sum(node.open for node in self.nodes)


def classes(nodes: Iterable[Node]) -> list[NodeClass]:
    """Return the classes of nodes, those with most GPUs first, each with what it is good for, judged within this
    cluster.
    """
    groups: dict[tuple[str, int, int, int], list[Node]] = {}
    for node in nodes:
        key = (node.gpu_types, node.gpus_total, node.cpus, round(node.memory / 8192) * 8192 or node.memory)
        groups.setdefault(key, []).append(node)
    most_gpus = max((key[1] for key in groups), default=0)
    most_memory = max((key[3] for key in groups), default=0)
    found = [
        NodeClass(kind, num, cpus, memory, tuple(members), _good_for(kind, num, memory, most_gpus, most_memory))
        for (kind, num, cpus, memory), members in groups.items()
    ]
    return sorted(found, key=lambda c: (-c.gpus, -c.memory, -c.cpus))


def _good_for(kind: str, num: int, memory: int, most_gpus: int, most_memory: int) -> str:
    if num == 0:
        words = "no GPU: caching latents, evaluation of digits, notebooks without training"
        return words + ("; the most memory here" if memory == most_memory and most_memory else "")
    if any(sign in kind for sign in ("1g.", "2g.", "3g.", "4g.", "7g.")):
        return "slices of GPUs: notebooks, trying a recipe"
    if num == most_gpus and num > 1:
        words = f"training on up to {num} GPUs of one node, and the building block of larger runs"
    elif num > 1:
        words = "one run on several GPUs, or several single-GPU runs"
    else:
        words = "single-GPU runs, notebooks, sampling"
    return words + ("; the most memory here" if memory == most_memory else "")


def recommend(nodes: Iterable[Node], *, type: str = "") -> tuple[str, str]:
    """Return what to do now, as a sentence and a command that works as it stands.

    Arguments:
        type: the GPU type that was asked for, if any; it goes into the command.
    """
    nodes = list(nodes)
    with_gpus = [node for node in nodes if node.gpus]
    option = f" --type {type}" if type else ""
    best = max(with_gpus, key=lambda node: node.gpus_free, default=None)
    if best is not None and best.gpus_free:
        free = sum(node.gpus_free for node in with_gpus)
        return f"{free} free, most of them on {best.name} ({best.gpus_free}).", f"limner cluster jupyter gpu{option}"
    if any(node.works for node in with_gpus):
        return (
            "No GPU is free. A job waits its turn in the queue; this says when Slurm expects it to start:",
            f"limner cluster jupyter gpu{option} --hours 1",
        )
    if any(node.open for node in nodes):
        words = "No node with GPUs is in service." if with_gpus else "This cluster has no GPUs."
        return words + " There are free CPUs:", "limner cluster jupyter cpu"
    return "Nothing is free now. Look again every 30 s:", f"limner cluster gpus{option} --watch 30"
