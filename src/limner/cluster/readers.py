"""Reads what Slurm says about nodes: `sinfo -O` rows, `scontrol show node` text, and the JSON of Slurm 22.05 to 25.x.

Text comes first, because the JSON changed its shape with almost every version. What cannot be read is an honest
ClusterError, never a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from limner.cluster import gres
from limner.cluster.nodelist import expand
from limner.cluster.nodes import Node, parse_state
from limner.errors import ClusterError, shorten

SINFO_FIELDS = (
    "NodeList", "Partition", "StateComplete", "Gres", "GresUsed", "CPUsState", "Memory", "AllocMem",
    "Features", "Reason",
)  # fmt: skip
SINFO_FORMAT = ",".join(f"{field}:|" for field in SINFO_FIELDS)
_NOTHING = frozenset({"(null)", "none", "None", "N/A", "n/a", ""})


def parse_sinfo(text: str) -> list[Node]:
    """Return the nodes of `sinfo -h -N -O SINFO_FORMAT`, each once, however many partitions list it.

    Raises: ClusterError when a row does not have the ten fields, or a field cannot be read.
    """
    nodes: dict[str, Node] = {}
    partitions: dict[str, dict[str, None]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("|", len(SINFO_FIELDS) - 1)]
        if len(cells) != len(SINFO_FIELDS):
            raise _unreadable(f"`sinfo` line {number}", f"has {len(cells)} fields instead of {len(SINFO_FIELDS)}", line)
        name = cells[0]
        if name in nodes:
            partitions[name][cells[1].rstrip("*")] = None
            continue
        if not re.fullmatch(r"[\w.-]{1,255}", name, re.ASCII):
            raise _unreadable(f"`sinfo` line {number}", "does not begin with a node name", line)
        cpus = re.fullmatch(r"(\d{1,9})/(\d{1,9})/(\d{1,9})/(\d{1,9})", cells[5], re.ASCII)
        if cpus is None:
            raise _unreadable(f"`sinfo` line {number}", "has no CPU counts such as 0/4/0/4", line)
        partitions[name] = {cells[1].rstrip("*"): None}
        nodes[name] = Node(
            name=name,
            state=parse_state(cells[2]),
            gpus=tuple(gres.gpus(cells[3], cells[4])),
            cpus_used=int(cpus[1]),
            cpus=int(cpus[4]),
            memory=_number(cells[6], "memory", line),
            memory_used=_number(cells[7], "allocated memory", line),
            features="" if cells[8] in _NOTHING else cells[8],
            reason="" if cells[9].rstrip("|") in _NOTHING else cells[9].rstrip("|"),
        )
    return [_with_partitions(node, partitions[node.name]) for node in nodes.values()]


def parse_scontrol(text: str) -> list[Node]:
    """Return the nodes of `scontrol show node -d`, with or without `-o`.

    Raises: ClusterError when there is no node in it, a node lacks its state, or GPUs are shown without their use.
    """
    nodes = []
    for block in re.split(r"(?m)^(?=NodeName=)", text):
        if not block.strip():
            continue
        fields = key_values(block)
        if not re.fullmatch(r"[\w.-]{1,255}", fields.get("NodeName", ""), re.ASCII) or "State" not in fields:
            raise _unreadable("`scontrol show node`", "has no NodeName or State", block)
        configured = fields.get("Gres", "")
        if "GresUsed" in fields:
            used = fields["GresUsed"]
        elif "AllocTRES" in fields and "gres/" in fields.get("CfgTRES", ""):
            used = ",".join(f"{i.name}:{i.type}:{i.count}".replace("::", ":") for i in gres.parse_tres(fields["AllocTRES"]))
        elif gres.count_gpus(gres.parse(configured)):
            raise ClusterError("cannot read this: `scontrol show node` hides the GPUs in use without its option -d.")
        else:
            used = ""
        nodes.append(
            Node(
                name=fields["NodeName"],
                state=parse_state(fields["State"]),
                gpus=tuple(gres.gpus(configured, used)),
                cpus_used=_number(fields.get("CPUAlloc", "0"), "CPUAlloc", block),
                cpus=_number(fields.get("CPUTot", "0"), "CPUTot", block),
                memory=_number(fields.get("RealMemory", "0"), "RealMemory", block),
                memory_used=_number(fields.get("AllocMem", "0"), "AllocMem", block),
                partitions=tuple(sorted(name for name in fields.get("Partitions", "").split(",") if name)),
                features="" if fields.get("AvailableFeatures", "") in _NOTHING else fields["AvailableFeatures"],
                reason=fields.get("Reason", ""),
            )
        )
    if not nodes:
        raise ClusterError("cannot read this: `scontrol show node` names no node.")
    return nodes


def key_values(text: str) -> dict[str, str]:
    """Return the `Key=value` pairs of `scontrol show` output; values may hold blanks, and the first of a key counts."""
    found: dict[str, str] = {}
    matches = list(re.finditer(r"(?:^|(?<=\s))([A-Z][A-Za-z:_/]*)=", text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=False):
        value = text[match.end() : end]
        found.setdefault(match[1], " ".join(value.split()))
    return found


def parse_json(text: str) -> list[Node]:
    """Return the nodes of `sinfo --json` or `scontrol show nodes --json`, Slurm 22.05 to 25.x.

    From 23.11 on `sinfo --json` adds nodes up into rows: a row of several half-used GPU nodes does not tell whose
    GPUs are in use, and is refused. Raises: ClusterError.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"cannot read this: not JSON ({shorten(text)}).") from error
    if not isinstance(tree, Mapping):
        raise ClusterError(f"cannot read this JSON: expected an object, got {shorten(tree)}.")
    try:
        if isinstance(tree.get("nodes"), list):
            return [_json_node(entry) for entry in tree["nodes"]]
        if isinstance(tree.get("sinfo"), list):
            return _json_rows(tree["sinfo"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"cannot read this JSON from Slurm: {type(error).__name__}: {shorten(str(error))}.") from error
    raise ClusterError(f"cannot read this JSON: it has neither `nodes` nor `sinfo`, only {shorten(list(tree))}.")


def plain(value: Any) -> Any:
    """Return a JSON number of any version: `{"set": true, "infinite": false, "number": 4}` is 4, unset and infinite
    are None.
    """
    if isinstance(value, Mapping) and "number" in value:
        return None if value.get("infinite") or not value.get("set", True) else value["number"]
    return value


def _json_node(entry: Mapping[str, Any]) -> Node:
    raw = entry["state"]
    words = [raw] if isinstance(raw, str) else list(raw)
    words += list(entry.get("state_flags") or [])
    return Node(
        name=_name(entry["name"]),
        state=parse_state("+".join(words)),
        gpus=tuple(gres.gpus(entry.get("gres") or "", entry.get("gres_used") or "")),
        cpus_used=_count(entry.get("alloc_cpus")),
        cpus=_count(entry.get("cpus")),
        memory=_count(entry.get("real_memory")),
        memory_used=_count(entry.get("alloc_memory")),
        partitions=tuple(sorted(_words(entry.get("partitions")))),
        features=",".join(_words(entry.get("features"))),
        reason=str(entry.get("reason") or ""),
    )


def _json_rows(rows: Iterable[Mapping[str, Any]]) -> list[Node]:
    nodes: dict[str, Node] = {}
    partitions: dict[str, dict[str, None]] = {}
    for row in rows:
        names = [name for text in _words(row["nodes"]["nodes"]) for name in expand(text)]
        state = parse_state("+".join(_words(row["node"]["state"])))
        configured, used = row["gres"]["total"], row["gres"]["used"]
        unclear = len(names) > 1 and "mixed" in state and gres.count_gpus(gres.parse(configured))
        if unclear:
            raise ClusterError(
                f"cannot read this: `sinfo --json` adds up {len(names)} nodes in one row ({shorten(','.join(names))}), "
                "so whose GPUs are in use is not told."
            )
        partition = row.get("partition", {}).get("name", "")
        for name in names:
            partitions.setdefault(name, {})[partition] = None
            nodes[name] = Node(
                name=_name(name),
                state=state,
                gpus=tuple(gres.gpus(configured, used)),
                cpus_used=_count(row["cpus"].get("allocated")) // len(names),
                cpus=_count(row["cpus"].get("total")) // len(names),
                memory=_count(row["memory"].get("maximum")),
                memory_used=_count(row["memory"].get("allocated")) // len(names),
            )
    return [_with_partitions(node, partitions[node.name]) for node in nodes.values()]


def _with_partitions(node: Node, names: Mapping[str, None]) -> Node:
    return Node(**{**vars(node), "partitions": tuple(sorted(name for name in names if name not in _NOTHING))})


def _words(value: Any) -> list[str]:
    """A list, or a text with commas, as words."""
    items = value.split(",") if isinstance(value, str) else list(value or [])
    if not all(isinstance(item, str) for item in items):
        raise TypeError(f"expected words, got {shorten(value)}")
    return [item for item in items if item]


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]{1,255}", value, re.ASCII):
        raise ValueError(f"no node name: {shorten(value)}")
    return value


def _count(value: Any) -> int:
    number = plain(value)
    if number is None:
        return 0
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 2**53:
        return _sentinel(number)
    return int(number)


def _sentinel(number: Any) -> int:
    """Slurm writes -2 and 2**32 - 2 for "unknown"."""
    if isinstance(number, int | float) and not isinstance(number, bool) and number < 0:
        return 0
    raise ValueError(f"no count: {shorten(number)}")


def _number(text: str, what: str, line: str) -> int:
    text = text.strip().rstrip("+")
    if text in _NOTHING:
        return 0
    if not re.fullmatch(r"-?\d{1,15}", text, re.ASCII):
        raise _unreadable(what, f"is no number ({shorten(text)})", line)
    return max(0, int(text))


def _unreadable(where: str, why: str, line: str) -> ClusterError:
    return ClusterError(f"cannot read this: {where} {why}: {shorten(line.strip(), 120)}.")
