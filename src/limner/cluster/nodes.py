"""One node as limner sees it, and what Slurm's words for its state mean for somebody who wants a GPU now."""

from __future__ import annotations

import re
from dataclasses import dataclass

from limner.cluster.gres import Gpus
from limner.errors import ClusterError, shorten

_LONG = {
    "alloc": "allocated", "mix": "mixed", "comp": "completing", "drain": "drained", "drng": "draining",
    "failg": "failing",
    "futr": "future", "maint": "maintenance", "resv": "reserved", "inval": "invalid", "unk": "unknown",
    "plnd": "planned",
    "npc": "perfctrs", "pow_dn": "powering_down", "pow_up": "powering_up", "boot": "rebooting", "err": "error",
    "maint+": "maintenance", "invalid_reg": "invalid", "noresp": "not_responding", "no_respond": "not_responding",
    "powered_down": "sleeping", "power": "sleeping", "cloud": "cloud", "reboot_requested": "reboot",
    "reboot^": "reboot",
    "power_down": "powering_down", "power_up": "powering_up", "reboot_issued": "reboot", "dynamic_norm": "dynamic",
    "dynamic_future": "dynamic",
}  # fmt: skip
_SIGNS = {
    "*": "not_responding", "~": "sleeping", "#": "powering_up", "!": "powering_down", "%": "powering_down",
    "$": "maintenance", "@": "reboot", "^": "reboot", "-": "planned",
}  # fmt: skip
_WORKING = frozenset({"idle", "mixed", "allocated", "planned", "completing"})
_HARMLESS = _WORKING | {"sleeping", "powering_up", "cloud", "dynamic"}


def parse_state(text: str) -> tuple[str, ...]:
    """Return the words of a state such as `mix*`, `IDLE+DRAIN` or `idle~`: the base first, then flags, long and
    lower-case.

    Raises: ClusterError when it does not look like a state at all.
    """
    words: list[str] = []
    for part in text.strip().lower().split("+"):
        match = re.fullmatch(r"([a-z][a-z_]*)([*~#!%$@^-]*)", part.strip(), re.ASCII)
        if match is None:
            raise ClusterError(f"cannot read this node state: {shorten(text)}.")
        words.append(_LONG.get(match[1], match[1]))
        words.extend(_SIGNS[sign] for sign in match[2])
    return tuple(dict.fromkeys(words))


@dataclass(frozen=True)
class Node:
    """One node. `state` holds the base state and flags in long words; memory in MB; `partitions` in order of name."""

    name: str
    state: tuple[str, ...]
    gpus: tuple[Gpus, ...] = ()
    cpus_used: int = 0
    cpus: int = 0
    memory_used: int = 0
    memory: int = 0
    partitions: tuple[str, ...] = ()
    features: str = ""
    reason: str = ""

    @property
    def works(self) -> bool:
        """Whether Slurm may start a job here: no drain, fault, maintenance, reservation or shutdown in its state."""
        return self.state[0] in _HARMLESS and all(word in _HARMLESS for word in self.state)

    @property
    def open(self) -> bool:
        """Whether there is a free CPU and memory too: without them a free GPU cannot be had."""
        return self.works and self.cpus_free > 0 and (self.memory == 0 or self.memory_used < self.memory)

    @property
    def cpus_free(self) -> int:
        """CPUs that nobody holds."""
        return max(0, self.cpus - self.cpus_used)

    @property
    def gpus_total(self) -> int:
        """All GPUs of the node."""
        return sum(gpu.total for gpu in self.gpus)

    @property
    def gpus_used(self) -> int:
        """GPUs that jobs hold, whole or by shares."""
        return sum(gpu.used + gpu.shared for gpu in self.gpus)

    @property
    def gpus_free(self) -> int:
        """GPUs that a job could get here now."""
        return sum(gpu.free for gpu in self.gpus) if self.open else 0

    @property
    def gpu_types(self) -> str:
        """Types in words, `a100` or `a100, v100`; "" without GPUs."""
        return ", ".join(gpu.type for gpu in self.gpus)

    @property
    def state_text(self) -> str:
        """The state as shown, `mixed`, `idle, draining`."""
        return ", ".join(self.state)

    def as_dict(self) -> dict[str, object]:
        """Return the node as plain data for `--json`."""
        return {
            "name": self.name,
            "state": list(self.state),
            "available": self.open,
            "gpus": [
                {
                    "type": g.type,
                    "total": g.total,
                    "used": g.used,
                    "shared": g.shared,
                    "free": g.free if self.open else 0,
                }
                for g in self.gpus
            ],
            "cpus": {"total": self.cpus, "used": self.cpus_used},
            "memory_mb": {"total": self.memory, "used": self.memory_used},
            "partitions": list(self.partitions),
            "features": self.features,
            "reason": self.reason,
        }
