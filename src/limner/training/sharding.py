"""Weights spread over processes (FSDP2), and put together again for checkpoints, previews and model folders.

Sharded parameters are DTensors; averages and optimizer states of them are sharded the same way, so EMA updates stay local. `gather` is a
collective: every process calls it, and every process gets whole tensors. Next: `loop.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def units(module: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a network (those whose class says `repeated = True`), for sharding and compiling by block."""
    return [part for part in module.modules() if getattr(part, "repeated", False)]


def shard(module: nn.Module, device: torch.device, world: int) -> None:
    """Spread a module's parameters over all processes, block by block, in place."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 shards plain layouts only, not channels-last
    mesh = init_device_mesh(device.type, (world,))
    for part in units(module):
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors for sharded ones; others as they are. All processes call it together."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()}


@torch.no_grad()
def put(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if isinstance(target, DTensor):
        target.copy_(distribute_tensor(whole.to(target.device), target.device_mesh, target.placements))
    else:
        target.copy_(whole)


@torch.no_grad()
def like(target: Tensor, whole: Tensor) -> Tensor:
    """Return a whole tensor sharded and laid out in memory as `target` is, if it has its shape; else as it is.

    The layout matters: fused optimizers walk over raw memory, and saved tensors have lost channels-last.
    """
    if whole.shape != target.shape or whole.ndim == 0:
        return whole
    if isinstance(target, DTensor):
        return distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
    return torch.empty_like(target, dtype=whole.dtype).copy_(whole)


def number(value: Tensor) -> float:
    """Return a scalar that may be a DTensor as a float."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)
