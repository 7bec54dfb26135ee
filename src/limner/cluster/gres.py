"""Reads every form in which Slurm writes generic resources: GRES (`gpu:a100:4(S:0-1)`) and TRES (`gres/gpu:a100=4`).

A GPU may be cut: into MIG slices, which Slurm counts as GPUs of their own type, and into shards or MPS shares, which
are counted beside the whole GPU. A GPU with a busy share is not free as a whole one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from limner.errors import ClusterError, shorten

_NONE = frozenset({"", "(null)", "null", "N/A", "n/a", "none", "None"})
_ITEM = re.compile(
    r"(?P<name>[A-Za-z_][\w.-]*)(?::(?P<type>[\w.+-]+))??(?::no_consume)?"
    r"(?::(?P<count>\d{1,12})(?P<unit>[kKmMgGtT]?))?(?P<more>\([^()]*\))?",
    re.ASCII,
)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
UNTYPED = "gpu"


@dataclass(frozen=True)
class Item:
    """One resource: `gpu:a100:4(S:0-1)` is `Item("gpu", "a100", 4, "S:0-1")`; an untyped one has type ""."""

    name: str
    type: str
    count: int
    note: str = ""


@dataclass(frozen=True)
class Gpus:
    """GPUs of one type on one node: all, used whole, and opened for shards or MPS (so not free as a whole)."""

    type: str
    total: int
    used: int
    shared: int = 0

    @property
    def free(self) -> int:
        """Whole GPUs that nobody holds."""
        return max(0, self.total - self.used - self.shared)


def parse(text: str) -> list[Item]:
    """Return the items of a GRES list; `(null)` and `N/A` are an empty list.

    Raises: ClusterError when an item has none of the known forms.
    """
    if text.strip() in _NONE:
        return []
    items = []
    for part in _split(text.strip()):
        part = part.removeprefix("gres:").removeprefix("gres/")
        match = _ITEM.fullmatch(part)
        if match is None:
            raise ClusterError(f"cannot read this GRES: {shorten(part)} (in {shorten(text)}).")
        count = int(match["count"]) * _UNITS[match["unit"].lower()] if match["count"] else 1
        items.append(Item(match["name"], match["type"] or "", count, (match["more"] or "")[1:-1]))
    return items


def parse_tres(text: str) -> list[Item]:
    """Return the `gres/...` entries of a TRES list such as `cpu=2,gres/gpu=2,gres/gpu:a100=2`; each GPU once.

    The untyped entry is the sum of the typed ones: it is dropped, or kept for the remainder when types do not cover it.
    Raises: ClusterError when an entry is not `name=number`.
    """
    if text.strip() in _NONE:
        return []
    found: dict[tuple[str, str], int] = {}
    for part in text.strip().split(","):
        key, sign, value = part.strip().partition("=")
        if not sign:
            raise ClusterError(f"cannot read this TRES: {shorten(part)} (in {shorten(text)}).")
        if not key.startswith("gres/"):
            continue
        if not re.fullmatch(r"\d{1,12}", value, re.ASCII):
            raise ClusterError(f"cannot read this TRES: {shorten(part)} (in {shorten(text)}).")
        name, _, kind = key.removeprefix("gres/").partition(":")
        found[(name, kind)] = max(int(value), found.get((name, kind), 0))
    items = []
    for (name, kind), count in found.items():
        if kind == "":
            count -= sum(other for (n, k), other in found.items() if n == name and k)
            if count <= 0:
                continue
        items.append(Item(name, kind, count))
    return items


def gpus(configured: str, used: str) -> list[Gpus]:
    """Return the GPUs of one node, by type, from its GRES and GRES_USED lists.

    A used entry without a type is taken from the node's types in turn; MIG slices are types like any other.
    Raises: ClusterError when a list cannot be read.
    """
    have, busy = parse(configured), parse(used)
    totals = _sum(have, "gpu")
    if not totals:
        return []
    taken = {kind: 0 for kind in totals}
    for kind, count in _sum(busy, "gpu").items():
        for other in [kind] if kind in totals else list(totals):
            part = min(count, totals[other] - taken[other])
            taken[other] += part
            count -= part
    shared = _shared(have, busy, totals)
    return [
        Gpus(kind or UNTYPED, total, taken[kind], min(shared.get(kind, 0), total - taken[kind])) for kind, total in totals.items()
    ]


def count_gpus(items: list[Item]) -> int:
    """Return how many GPUs the items of one list name."""
    return sum(item.count for item in items if item.name == "gpu")


def _shared(have: list[Item], busy: list[Item], totals: dict[str, int]) -> dict[str, int]:
    """How many GPUs of each type are opened for shards or MPS, from `shard:a100:3(2/8,1/8)` or, without notes, from
    counts.
    """
    opened: dict[str, int] = {}
    for item in busy:
        if item.name not in ("shard", "mps") or item.count == 0:
            continue
        parts = re.findall(r"(\d+)/(\d+)", item.note)
        if parts:
            num = sum(int(part) > 0 for part, _ in parts)
        else:
            all_shares = sum(other.count for other in have if other.name == item.name and other.type in (item.type, ""))
            all_gpus = totals.get(item.type, sum(totals.values()))
            num = math.ceil(item.count * all_gpus / all_shares) if all_shares else 1
        kind = item.type if item.type in totals else max(totals, key=lambda name: totals[name])
        opened[kind] = opened.get(kind, 0) + num
    return opened


def _sum(items: list[Item], name: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for item in items:
        if item.name == name:
            sums[item.type] = sums.get(item.type, 0) + item.count
    return sums


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    return [part.strip() for part in re.findall(r"(?:[^,(]|\([^()]*\)|\()+", text) if part.strip()]
