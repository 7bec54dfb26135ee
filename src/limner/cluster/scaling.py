"""A cost model of one training step on many GPUs: compute, all-reduce, data, checkpoints. docs/scaling.md explains
and tabulates.

With B images a step on N GPUs (G a node, M = N / G nodes), P parameters, f operations an image (forward and backward):

    compute      t_c = f B / (N F u)                      F: peak operations a second, u: the share reached
    all-reduce   S = P s bytes;  t_r = 2 (G-1)/G S / w_in + 2 (M-1)/M (S/G) / w_out + 2 log2(N) a k
                 (ring inside the node, then each GPU's share across nodes; a: latency, k: buckets)
    exposed      t_e = max(0, t_r - v 2/3 t_c)            v: share of the backward pass that hides it
    data         t_d = B d / w_data (w_data M with a copy on each node), hidden unless longer
    checkpoint   t_k = (16 + 4 E) P / (w_disk n)          fp32 state of 16 bytes, E averages; every n steps
    step         t = max(t_c + t_e, t_d) + t_k
    efficiency   (B / t) / (N x images a second of one GPU at the same batch a GPU)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """What is trained. Defaults: a transformer of 130 million parameters on cached 4 x 32 x 32 latents, bf16."""

    parameters: float = 130e6
    operations_per_image: float = 3 * 2 * 23e9  # multiply-adds of a forward pass, times 2 operations, times 3 with backward
    bytes_per_image: float = 2 * 4 * 32 * 32 + 77 * 768 * 2  # a latent and its text states in 16 bits
    bytes_per_gradient: float = 2
    averages: int = 2
    checkpoint_every: int = 2000


@dataclass(frozen=True)
class Machine:
    """What it is trained on, in units and seconds. Defaults are round figures for nodes of 8 A100s with one 200
    Gbit/s link a GPU.
    """

    peak: float = 312e12
    utilisation: float = 0.35
    gpus_per_node: int = 8
    bytes_inside: float = 200e9
    bytes_across: float = 20e9
    latency: float = 20e-6
    buckets: int = 10
    overlap: float = 0.8
    bytes_data: float = 2e9
    local_data: bool = False  # each node reads its own copy, so `bytes_data` counts for each
    bytes_disk: float = 1e9


@dataclass(frozen=True)
class Prediction:
    """One row of the table; times in milliseconds a step."""

    gpus: int
    batch: int
    compute: float
    all_reduce: float
    exposed: float
    data: float
    checkpoint: float
    step: float
    images_per_second: float
    efficiency: float
    reduced_megabytes: float


def predict(gpus: int, batch: int, work: Workload | None = None, machine: Machine | None = None) -> Prediction:
    """Return what the model predicts for `batch` images a step on `gpus` GPUs.

    Raises: ValueError when the batch does not divide by the GPUs, or fewer than one GPU is given.
    """
    work, machine = work or Workload(), machine or Machine()
    if gpus < 1 or batch < gpus or batch % gpus:
        raise ValueError(f"{batch} images do not divide evenly by {gpus} GPUs")
    inside = min(gpus, machine.gpus_per_node)
    nodes = math.ceil(gpus / machine.gpus_per_node)
    compute = work.operations_per_image * batch / (gpus * machine.peak * machine.utilisation)
    size = work.parameters * work.bytes_per_gradient
    reduce = 2 * (inside - 1) / inside * size / machine.bytes_inside
    reduce += 2 * (nodes - 1) / nodes * (size / inside) / machine.bytes_across
    reduce += 2 * math.log2(gpus) * machine.latency * machine.buckets
    exposed = max(0.0, reduce - machine.overlap * 2 / 3 * compute)
    data = batch * work.bytes_per_image / machine.bytes_data / (nodes if machine.local_data else 1)
    checkpoint = (16 + 4 * work.averages) * work.parameters / machine.bytes_disk / work.checkpoint_every
    step = max(compute + exposed, data) + checkpoint
    return Prediction(
        gpus, batch, 1e3 * compute, 1e3 * reduce, 1e3 * exposed, 1e3 * data, 1e3 * checkpoint, 1e3 * step,
        batch / step, compute / step, 2 * (gpus - 1) / gpus * size / 1e6,
    )  # fmt: skip


def advice(row: Prediction) -> str:
    """Return which setting to change first, from the largest loss of the row."""
    losses = {
        "more images a GPU (larger batch or accumulation)": row.exposed,
        "a copy of the cache on each node": max(0.0, row.data - row.compute - row.exposed),
        "save less often, or more images a GPU": row.checkpoint,
    }
    worst = max(losses, key=lambda name: losses[name])
    return "nothing: compute rules" if row.efficiency >= 0.95 else worst


PLAN = ((1, 128, False), (8, 1024, False), (64, 4096, False), (64, 4096, True), (512, 8192, True), (512, 32768, True))


def rows(plan: Sequence[tuple[int, int, bool]] = PLAN) -> list[Prediction]:
    """Return the predictions of docs/scaling.md: GPUs, batch, and whether each node has its own copy of the cache."""
    return [predict(gpus, batch, machine=Machine(local_data=local)) for gpus, batch, local in plan]


def markdown(table: Sequence[Prediction]) -> str:
    """Return predictions as the table that docs/scaling.md shows."""
    lines = [
        "| GPUs | batch | a GPU | compute ms | all-reduce ms | exposed ms | data ms | checkpoint ms | images/s "
        "| efficiency | change first |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in table:
        cells = [r.gpus, r.batch, r.batch // r.gpus]
        times = [f"{value:.2f}" for value in (r.compute, r.all_reduce, r.exposed, r.data, r.checkpoint)]
        ends = [f"{r.images_per_second:,.0f}", f"{100 * r.efficiency:.0f} %", advice(r)]
        lines.append("| " + " | ".join(map(str, [*cells, *times, *ends])) + " |")
    return "\n".join(lines)
