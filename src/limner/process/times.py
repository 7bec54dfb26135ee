"""When the network is asked: draws of t for training, and grids of t for sampling.

A draw maps uniform numbers to times, so that the numbers (which belong to images) are all that has to be reproducible.
A grid is a falling list of N + 1 times from t_max to 0; `make_grid` makes it from a name, from times, or from a
`FittedGrid`. Next: `../guidance.py` and `../samplers.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from limner.config import Config, Family, validate
from limner.errors import ConfigError, nearest
from limner.process.schedules import Process

# ---------------------------------------------------------------------------------------------------- training draws


class Times(Config):
    """A distribution of training times in [t_min, t_max]; `draw` maps uniform numbers to it."""

    kind: str
    t_min: float = Field(0.0, ge=0, lt=1)
    t_max: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Times:
        if self.t_min >= self.t_max:
            raise ConfigError(f"times: t_min ({self.t_min}) must be below t_max ({self.t_max}).")
        return self

    def draw(self, u: Tensor, *, budget: float = 0.0) -> Tensor:
        """Return times in u's shape from uniform numbers u in [0, 1); `budget` in [0, 1] is the share used."""
        return self.t_min + (self.t_max - self.t_min) * self.quantile(u, budget=budget)

    def quantile(self, u: Tensor, *, budget: float) -> Tensor:
        """Return the distribution's quantile at u, before it is fitted into [t_min, t_max]."""
        raise NotImplementedError


class Uniform(Times):
    """t ~ U(0, 1)."""

    kind: Literal["uniform"] = "uniform"

    def quantile(self, u: Tensor, *, budget: float) -> Tensor:
        return u


class LogitNormal(Times):
    """t = sigmoid(mean + scale·n), n ~ N(0, 1). Source: Esser et al. 2024, Section 3.1."""

    kind: Literal["logit-normal"] = "logit-normal"
    mean: float = 0.0
    scale: float = Field(1.0, gt=0)

    def quantile(self, u: Tensor, *, budget: float) -> Tensor:
        n = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return torch.sigmoid(self.mean + self.scale * n)


class Shifted(Times):
    """Uniform draws moved toward the noise for large images: t' = a·t/(1 + (a - 1)·t), a = max(1, sqrt(d/4096)).

    Arguments:
        dimension: d, the number of latent numbers of one image. Source: Esser et al. 2024, Eq. 23.
    """

    kind: Literal["shifted"] = "shifted"
    dimension: int = Field(4096, ge=1)

    def quantile(self, u: Tensor, *, budget: float) -> Tensor:
        return shift(u, max(1.0, math.sqrt(self.dimension / 4096)))


class TwoPhase(Times):
    """Logit-normal for the first part of the budget (fast early), uniform after it (right at the end)."""

    kind: Literal["two-phase"] = "two-phase"
    mean: float = 0.0
    scale: float = Field(1.0, gt=0)
    switch: float = Field(0.7, ge=0, le=1)

    def quantile(self, u: Tensor, *, budget: float) -> Tensor:
        if budget >= self.switch:
            return u
        return LogitNormal(mean=self.mean, scale=self.scale).quantile(u, budget=budget)


TIMES = Family("times", {"uniform": Uniform, "logit-normal": LogitNormal, "shifted": Shifted, "two-phase": TwoPhase})


def shift(t: Tensor, a: float) -> Tensor:
    """Return a·t/(1 + (a - 1)·t): times moved toward the noise for a > 1, unchanged at 0 and 1."""
    return t / (t + (1 - t) / a)  # exact at both ends


# ---------------------------------------------------------------------------------------------------- sampling grids


def uniform_grid(process: Process, num_steps: int, *, t_max: float = 1.0) -> Tensor:
    """Return num_steps + 1 times, evenly spaced from t_max to 0, as float64."""
    return torch.linspace(t_max, 0, num_steps + 1, dtype=torch.float64)


def trailing_grid(process: Process, num_steps: int, *, t_max: float = 1.0) -> Tensor:
    """Return the times of a 1000-step table counted back from its end, then 0. Source: Lin et al. 2024, Section 3.3."""
    n = torch.arange(num_steps, dtype=torch.float64)
    steps = torch.round(1000 * t_max * (1 - n / num_steps)).clamp_min(1)
    return torch.cat([steps / 1000, torch.zeros(1, dtype=torch.float64)])


def karras_grid(process: Process, num_steps: int, *, t_max: float = 1.0, rho: float = 7.0) -> Tensor:
    """Return times whose noise-to-signal ratio s = sigma/alpha has s^(1/rho) evenly spaced, then 0.

    The ends are s = 0.002 and 80 (or what the process reaches before t_max). Source: Karras et al. 2022, Eq. 5.
    """
    if rho <= 0:
        raise ConfigError(f"grid 'karras': rho must be above 0, got {rho}.")
    ends = torch.tensor([t_max, 1e-4], dtype=torch.float64)
    ratio = (process.sigma(ends) / process.alpha(ends).clamp_min(1e-12)).clamp(0.002, 80)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    s = (ratio[0] ** (1 / rho) + ramp * (ratio[1] ** (1 / rho) - ratio[0] ** (1 / rho))) ** rho
    t = process.time_of_log_snr(-2 * s.log())
    return torch.cat([t.clamp_max(t_max), torch.zeros(1, dtype=torch.float64)])


def shifted_grid(process: Process, num_steps: int, *, t_max: float = 1.0, a: float = 3.0) -> Tensor:
    """Return an even grid moved toward the noise by t' = a·t/(1 + (a - 1)·t)."""
    if a <= 0:
        raise ConfigError(f"grid 'shifted': a must be above 0, got {a}.")
    return t_max * shift(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), a)


GRIDS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform_grid,
    "trailing": trailing_grid,
    "karras": karras_grid,
    "shifted": shifted_grid,
}


class FittedGrid(Config):
    """Times (and multistep coefficients) learned for one model, one sampler and one number of steps; see `fitting.py`.

    Arguments:
        sampler: the sampler that they were learned with.
        times: N + 1 falling times, the last one 0.
        coefficients: for each step the weights of the velocities, newest first, in units of the step; None for the
            sampler's own.
        error: root mean square distance to the reference's samples, on noises that were not fitted to.
        baseline: the same, of the best fixed grid with the sampler's own coefficients.
    """

    kind: Literal["fitted"] = "fitted"
    sampler: str
    times: tuple[float, ...] = Field(min_length=2)
    coefficients: tuple[tuple[float, ...], ...] | None = None
    error: float | None = None
    baseline: float | None = None

    @field_validator("times")
    @classmethod
    def _falling(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        check_grid(torch.tensor(value, dtype=torch.float64))
        return value

    @property
    def num_steps(self) -> int:
        """The number of steps N."""
        return len(self.times) - 1

    @property
    def options(self) -> dict[str, Any]:
        """What the sampler is to be given besides the times."""
        return {} if self.coefficients is None else {"coefficients": self.coefficients}


def check_grid(times: Tensor) -> None:
    """Raise ConfigError unless `times` [N + 1] falls strictly, starts in (0, 1] and ends at 0."""
    falls = bool((times[1:] < times[:-1]).all())  # also False for NaN
    if times.ndim != 1 or len(times) < 2 or not falls or times[0] > 1 or times[-1] != 0:
        shown = [round(t, 4) for t in times.flatten().tolist()[:8]]
        raise ConfigError(f"grid: expected falling times from at most 1 to exactly 0, such as 1, 0.5, 0; got {shown}.")


def make_grid(
    grid: str | Sequence[float] | Mapping[str, Any] | FittedGrid,
    process: Process,
    num_steps: int,
    *,
    t_max: float = 1.0,
    **options: float,
) -> Tensor:
    """Return the num_steps + 1 falling times that `grid` stands for, as float64 on the CPU.

    Arguments:
        grid: a name in `GRIDS`; a mapping of its `kind` and options, such as {kind: shifted, a: 0.5}; a list of times;
            or a FittedGrid, or the mapping it is saved as.
        t_max: where a named grid starts; a grid given by its times is scaled from its own start to t_max below it.
        options: of the named grid, such as `a` of `shifted` and `rho` of `karras`.

    Raises: ConfigError for unknown names and options, for num_steps that the grid cannot have, and for times that do
    not fall to 0.
    """
    if not 1 <= num_steps <= 10_000:
        raise ConfigError(f"steps: must lie in [1, 10000], got {num_steps}.")
    if not 0 < t_max <= 1:
        raise ConfigError(f"grid: t_max must lie in (0, 1], got {t_max}.")
    if isinstance(grid, Mapping) and grid.get("kind") != "fitted":
        options = {**{str(k): v for k, v in grid.items() if k != "kind"}, **options}
        grid = str(grid.get("kind"))
    if isinstance(grid, str):
        times = _named_grid(grid, process, num_steps, t_max, options)
    else:
        if isinstance(grid, Mapping):
            grid = validate(FittedGrid, grid, where="grid")
        values = grid.times if isinstance(grid, FittedGrid) else grid
        times = torch.tensor(list(values), dtype=torch.float64)
        check_grid(times)
        if len(times) != num_steps + 1:
            raise ConfigError(f"grid: these times are for {len(times) - 1} steps, and {num_steps} were asked for.")
        times = times * min(1.0, t_max / float(times[0]))
    check_grid(times)
    return times


def _named_grid(name: str, process: Process, num_steps: int, t_max: float, options: dict[str, float]) -> Tensor:
    if name not in GRIDS:
        raise ConfigError(f"grid: there is no {name!r}.{nearest(name, GRIDS)} Allowed: {', '.join(GRIDS)}, or a list of times.")
    allowed = list(inspect.signature(GRIDS[name]).parameters)[3:]
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"grid {name!r}: there is no option {option!r}.{nearest(option, allowed)} Allowed: {', '.join(allowed) or 'none'}."
            )
    times = GRIDS[name](process, num_steps, t_max=t_max, **options)
    if not bool((times[1:] < times[:-1]).all()):
        raise ConfigError(f"grid {name!r} cannot be divided into {num_steps} steps from t = {t_max:g} under {process.kind!r}.")
    return times
