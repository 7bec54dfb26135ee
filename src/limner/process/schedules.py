"""A process is two functions of time: x_t = alpha(t)·x0 + sigma(t)·eps, with t = 0 at the data and t = 1 at the noise.

This file owns alpha and sigma of every process; DDPM and flow matching differ in nothing else. To add one, write a
small class with `alpha` and `sigma` and put it into `PROCESSES`. Next: `targets.py`, what a network is asked to say
about x_t.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from limner.config import Config, Family
from limner.errors import ConfigError


class Process(Config):
    """x_t = alpha(t)·x0 + sigma(t)·eps; alpha falls from 1, sigma rises from 0. SNR = alpha²/sigma²."""

    kind: str

    def alpha(self, t: Tensor) -> Tensor:
        """Return the weight of the data at times t in [0, 1], in t's shape."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Return the weight of the noise at times t in [0, 1], in t's shape."""
        raise NotImplementedError

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B C H W] from data x0 [B C H W], noise eps [B C H W] and times t [B]."""
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * eps

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha²/sigma²) at t; infinite at the ends where alpha or sigma is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the t in [0, 1] with the given log SNR, by bisection to float64 precision (log SNR falls in t)."""
        low = torch.zeros_like(log_snr, dtype=torch.float64)
        high = torch.ones_like(low)
        for _ in range(60):
            middle = (low + high) / 2
            noisier = self.log_snr(middle) < log_snr
            high = torch.where(noisier, middle, high)
            low = torch.where(noisier, low, middle)
        return ((low + high) / 2).to(log_snr.dtype)


class RectifiedFlow(Process):
    """alpha = 1 - t, sigma = t: straight lines from data to noise. Source: Liu et al. 2022; Lipman et al. 2022."""

    kind: Literal["rectified-flow"] = "rectified-flow"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t


class VariancePreserving(Process):
    """alpha² + sigma² = 1; a subclass gives `log_alpha`."""

    def log_alpha(self, t: Tensor) -> Tensor:
        """Return log(alpha) at t."""
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(t))).clamp_min(0).sqrt()


class LinearBeta(VariancePreserving):
    """beta(t) rises linearly: log(alpha²) = -(beta_min·t + (beta_max - beta_min)·t²/2).

    The continuous form of the table beta = 1e-4 -> 0.02 in 1000 steps. Source: Ho et al. 2020; Song et al. 2021, Eq.
    33.
    """

    kind: Literal["linear-beta"] = "linear-beta"
    beta_min: float = Field(0.1, gt=0)
    beta_max: float = Field(20.0, gt=0)

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2)


class ScaledLinearBeta(VariancePreserving):
    """sqrt(beta(t)) rises linearly, as in Stable Diffusion: 0.00085 -> 0.012 a step, times 1000 steps.

    With r(t) = a + (b - a)·t: log(alpha²) = -((r(t))³ - a³) / (3·(b - a)). Source: Rombach et al. 2022.
    """

    kind: Literal["scaled-linear-beta"] = "scaled-linear-beta"
    beta_min: float = Field(0.85, gt=0)
    beta_max: float = Field(12.0, gt=0)

    def log_alpha(self, t: Tensor) -> Tensor:
        a, b = math.sqrt(self.beta_min), math.sqrt(self.beta_max)
        # (r³ - a³)/(b - a), expanded so that it stays exact near t = 0 and for a = b.
        return -0.5 * t * (a * a + a * (b - a) * t + ((b - a) * t) ** 2 / 3)


class Cosine(Process):
    """alpha² = f(t)/f(0), f = cos²(pi/2·(t + s)/(1 + s)). Source: Nichol & Dhariwal 2021, Eq. 17."""

    kind: Literal["cosine"] = "cosine"
    s: float = Field(0.008, ge=0, lt=1)

    def alpha(self, t: Tensor) -> Tensor:
        return (torch.sin(self._left(t)) / math.cos(self._angle(0.0))).clamp_min(0)

    def sigma(self, t: Tensor) -> Tensor:
        # cos²(u0) - cos²(u) = sin(u + u0)·sin(u - u0): no cancellation near t = 0.
        u0 = self._angle(0.0)
        u = math.pi / 2 - self._left(t)
        product = torch.sin(u + u0) * torch.sin((math.pi / 2) * t / (1 + self.s))
        return product.clamp_min(0).sqrt() / math.cos(u0)

    def _angle(self, t: float) -> float:
        return math.pi / 2 * (t + self.s) / (1 + self.s)

    def _left(self, t: Tensor) -> Tensor:
        return (math.pi / 2) * (1 - t) / (1 + self.s)  # pi/2 - angle: exact 0 at t = 1


class Tabulated(VariancePreserving):
    """A table of N discrete steps, as foreign checkpoints have it; t = (n + 1)/N is the table's step n, exactly.

    Between the entries log(alpha) is interpolated linearly, and t = 0 is clean data.

    Arguments:
        betas: the table itself, or
        schedule: `linear`, `scaled_linear` or `squaredcos_cap_v2` to compute it in float64 as diffusers' names mean it.
        num_steps, beta_start, beta_end: of `schedule`.
        zero_terminal_snr: rescale the table so that alpha is 0 at t = 1. Source: Lin et al. 2024, Algorithm 1.
    """

    kind: Literal["tabulated"] = "tabulated"
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    betas: tuple[float, ...] | None = None
    num_steps: int = Field(1000, ge=2, le=100_000)
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    zero_terminal_snr: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Tabulated:
        if (self.schedule is None) == (self.betas is None):
            raise ConfigError("tabulated: give either `schedule` (linear, scaled_linear, squaredcos_cap_v2) or `betas`.")
        if self.betas is not None and not all(0 < beta <= 1 for beta in self.betas):
            raise ConfigError("tabulated: every beta lies in (0, 1].")
        return self

    def table(self) -> Tensor:
        """Return the betas as float64 [N]."""
        if self.betas is not None:
            return torch.tensor(self.betas, dtype=torch.float64)
        n = self.num_steps
        if self.schedule == "linear":
            return torch.linspace(self.beta_start, self.beta_end, n, dtype=torch.float64)
        if self.schedule == "scaled_linear":
            return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, n, dtype=torch.float64) ** 2
        t = torch.arange(n + 1, dtype=torch.float64) / n
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp_max(0.999)

    @cached_property
    def _alphas(self) -> Tensor:
        alphas = (1 - self.table()).cumprod(0).sqrt()
        if self.zero_terminal_snr:
            alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
        return torch.cat([torch.ones(1, dtype=torch.float64), alphas])

    @cached_property
    def _log_alphas(self) -> Tensor:
        return self._alphas.log()

    def _interpolate(self, table: Tensor, t: Tensor) -> Tensor:
        position = t.double() * (len(table) - 1)
        nearest = position.round()
        reach = len(table) * torch.finfo(t.dtype).eps  # a rounded t hits the table exactly
        position = torch.where((position - nearest).abs() < reach, nearest, position)
        index = position.floor().clamp(0, len(table) - 2).long()
        weight = position - index
        left, right = table[index], table[index + 1]
        return torch.where(weight == 0, left, torch.where(weight == 1, right, left + weight * (right - left)))

    def log_alpha(self, t: Tensor) -> Tensor:
        return self._interpolate(self._log_alphas, t).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return self._interpolate(self._log_alphas, t).exp().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._interpolate(self._log_alphas, t))).clamp_min(0).sqrt().to(t.dtype)


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Return value [B] as [B, 1, 1, ...] so that it multiplies `like` [B, ...]; a scalar stays a scalar."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)).to(like.dtype) if value.ndim else value


PROCESSES = Family(
    "process",
    {
        "rectified-flow": RectifiedFlow,
        "linear-beta": LinearBeta,
        "scaled-linear-beta": ScaledLinearBeta,
        "cosine": Cosine,
        "tabulated": Tabulated,
    },
)
