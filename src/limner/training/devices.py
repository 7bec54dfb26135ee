"""Devices, processes and precision: what differs between a laptop and eight GPUs. Accelerate places things; we only ask it.

All processes agree at every step on three numbers (stop? non-finite? seconds used), by one small all-reduce. Next: `loop.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs


class StopFlag:
    """Remembers that TERM, USR1 or INT arrived; the loop reads it at the next step. A second INT interrupts at once."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; nothing is saved inside a handler."""
        if number == signal.SIGINT and self.signal == "SIGINT":
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextlib.contextmanager
def catching_signals() -> Iterator[StopFlag]:
    """Give a StopFlag that TERM, USR1 and INT set inside this block (main thread only)."""
    flag = StopFlag()
    old: dict[int, Any] = {}
    try:
        for caught in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            try:
                old[caught] = signal.signal(caught, flag.handle)
            except ValueError:  # not the main thread (a notebook's or server's worker)
                break
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def accelerator() -> Accelerator:
    """Return the Accelerator of this process: GPUs where there are, else the CPU; DDP when a launcher started several."""
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # Decoding data, previews and checkpoints happen on one process while the others wait in a collective: it must not give up on them.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
    return Accelerator(cpu=distributed and not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patience])


def agree(values: list[float], device: torch.device) -> list[float]:
    """Return the elementwise maximum of `values` over all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device if device.type != "mps" else "cpu")
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def average(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes (the tensor itself for one process)."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
