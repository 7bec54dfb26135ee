"""The teacher's guided paths from noise to pictures, at the times where the student will stand.

In the flow's variables z = x/(alpha + sigma), tau = sigma/(alpha + sigma) (see `samplers_plan.py`) every process is a
rectified flow, and the teacher's guided ODE carries noise z(tau_0) to a picture z(0). A multistep solver takes it there
in a few steps; of its states only those at the student's own times are kept. Noises and prompts are all that is needed:
no data. Next: `fit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.errors import ConfigError, NumericalError
from limner.generate import guided
from limner.model import Model
from limner.process import Process
from limner.process.times import FittedGrid
from limner.samplers import get_sampler, start
from limner.sampling import Sampling

SOLVER, SOLVER_STEPS = "ab2", 8
STANDS = {1: (0, 8), 2: (0, 3, 8), 4: (0, 2, 4, 6, 8)}
"""At which of the solver's times a student of so many steps stands; chosen by measuring (docs/few-steps.md)."""
POOL_BYTES = 2**30
EMPTY_SHARE = 0.05
"""Share of paths without a caption, so that the student also answers the prompt ""."""


@dataclass(frozen=True)
class Pool:
    """Paths of the teacher.

    Arguments:
        z: [num, N + 1, C, H, W] float16, the states at the student's N + 1 times in the flow's scale.
        rows: [num] which of `prompts` each path was asked.
    """

    z: Tensor
    rows: Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.z)


def flow_times(process: Process, num_steps: int, *, t_max: float = 1.0) -> Tensor:
    """Return num_steps + 1 times from t_max to 0 whose tau = sigma/(alpha + sigma) is evenly spaced, as float64."""
    last = torch.tensor([t_max], dtype=torch.float64)
    top = float(process.sigma(last) / (process.alpha(last) + process.sigma(last)))
    tau = torch.linspace(top, 0, num_steps + 1, dtype=torch.float64)[1:-1]
    between = process.time_of_log_snr(2 * ((1 - tau) / tau).log())
    return torch.cat([last, between, torch.zeros(1, dtype=torch.float64)])


def student_times(process: Process, steps: int, *, t_max: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return (the student's steps + 1 times, the solver's SOLVER_STEPS + 1 times, of which they are some).

    Raises: ConfigError for other steps than 1, 2 and 4.
    """
    check_steps(steps)
    fine = flow_times(process, SOLVER_STEPS, t_max=t_max)
    return fine[list(STANDS[steps])], fine


def check_steps(steps: int) -> None:
    """Raise ConfigError for other steps than 1, 2 and 4."""
    if steps not in STANDS:
        raise ConfigError(f"--steps {steps}: a student takes 1, 2 or 4 steps.")


def student_sampling(times: Tensor) -> Sampling:
    """Return how a student is sampled: Euler on its own times, without guidance, one evaluation a step."""
    grid = FittedGrid(sampler="euler", times=tuple(times.tolist()))
    return Sampling(sampler="euler", steps=len(times) - 1, grid=grid, guidance=1.0, interval=(0.0, 1.0))


def teacher_paths(
    teacher: Model, prompts: Sequence[str], sampling: Sampling, times: Tensor, eps: Tensor, *, kept: Sequence[int]
) -> Tensor:
    """Return the teacher's guided paths, [B, len(kept), C, H, W], in the flow's scale.

    Arguments:
        sampling: its guidance; sampler, steps and grid are those of the paths.
        times: of the solver's steps. eps: noise [B, C, H, W] to begin with. kept: at which of the times.
    """
    process = teacher.process
    scale = (process.alpha(times) + process.sigma(times)).tolist()
    x = start(process, None, eps, float(times[0])).float()
    states = [x / scale[0]] if 0 in kept else []
    with torch.no_grad():
        denoise = guided(teacher, prompts, sampling)
        for i, step in enumerate(get_sampler(SOLVER)(denoise, x, times, process), start=1):
            if i in kept:
                states.append(step.x / scale[i])
    return torch.stack(states, 1)


def make_pool(
    teacher: Model,
    prompts: Sequence[str],
    sampling: Sampling,
    steps: int,
    *,
    batch: int,
    generator: torch.Generator,
    most: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Pool:
    """Return paths for prompts drawn evenly, until there are `most`, or as many as memory allows, or it is `enough`.

    Raises: NumericalError when a path is not finite.
    """
    _, fine = student_times(teacher.process, steps, t_max=teacher.config.t_max)
    room = max(1, POOL_BYTES // (2 * (steps + 1) * math.prod(teacher.latent_shape)))
    most = room if most is None else min(most, room)
    asked = [*prompts, ""]
    states: list[Tensor] = []
    rows: list[Tensor] = []
    num = 0
    while num < most and not (num and enough()):
        size = min(batch, most - num)
        row = torch.randint(len(prompts), (size,), generator=generator)
        row[torch.rand(size, generator=generator) < EMPTY_SHARE] = len(prompts)
        eps = torch.randn(size, *teacher.latent_shape, generator=generator).to(teacher.device)
        chosen = [asked[i] for i in row.tolist()]
        z = teacher_paths(teacher, chosen, sampling, fine, eps, kept=STANDS[steps])
        if not bool(torch.isfinite(z).all()):
            raise NumericalError("distill: the teacher's pictures are not finite. Lower --guidance, or train it again.")
        states.append(z.half().cpu())
        rows.append(row)
        num += size
    return Pool(torch.cat(states), torch.cat(rows), asked)
