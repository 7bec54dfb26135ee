"""A prediction target is a pair (a, b): the network is asked for y = a·x0 + b·eps.

Together with x_t = alpha·x0 + sigma·eps that is a 2x2 system with det = alpha·b - sigma·a, and one solve answers every
question:

    x0  = (b·x_t - sigma·y) / det
    eps = (alpha·y - a·x_t) / det

There is no table of converters. Where det vanishes the target says nothing about the data, and `check` refuses it in
words. Next: `times.py`, at which times it is asked.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from limner.config import Config, Family
from limner.errors import ConfigError
from limner.process.schedules import Process, expand


class Target(Config):
    """y = a(t)·x0 + b(t)·eps; a subclass gives a and b."""

    kind: str

    def a(self, process: Process, t: Tensor) -> Tensor:
        """Return the weight of x0 in the target, in t's shape."""
        raise NotImplementedError

    def b(self, process: Process, t: Tensor) -> Tensor:
        """Return the weight of eps in the target, in t's shape."""
        raise NotImplementedError

    def of(self, process: Process, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return y [B C H W] for data x0, noise eps (both [B C H W]) and times t [B]."""
        return expand(self.a(process, t), x0) * x0 + expand(self.b(process, t), x0) * eps

    def det(self, process: Process, t: Tensor) -> Tensor:
        """Return alpha·b - sigma·a at t."""
        return process.alpha(t) * self.b(process, t) - process.sigma(t) * self.a(process, t)

    def x0(self, process: Process, x_t: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Return the data x0 [B C H W] that a prediction y [B C H W] at x_t [B C H W], t [B] stands for."""
        det = self.det(process, t)
        return expand(self.b(process, t) / det, x_t) * x_t - expand(process.sigma(t) / det, x_t) * y

    def eps(self, process: Process, x_t: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Return the noise eps [B C H W] that a prediction y [B C H W] at x_t [B C H W], t [B] stands for."""
        det = self.det(process, t)
        return expand(process.alpha(t) / det, x_t) * y - expand(self.a(process, t) / det, x_t) * x_t

    def weight_to_x0(self, process: Process, t: Tensor) -> Tensor:
        """Return w(t) with |y error|² = w·|x0 error|² at the same x_t: (det/sigma)²."""
        return (self.det(process, t) / process.sigma(t)) ** 2

    def check(self, process: Process, *, t_max: float = 1.0) -> None:
        """Raise ConfigError when det vanishes at a time in (0, t_max], naming the time and what to choose instead."""
        t = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:]
        t = torch.cat([t[t < t_max], torch.tensor([t_max], dtype=torch.float64)])
        bad = t[self.det(process, t).abs() < 1e-6]
        if len(bad):
            raise ConfigError(
                f"target {self.kind!r} is ill-posed under process {process.kind!r} at t = {bad[0]:.4g}: there the "
                "network's answer says nothing about the data.\n"
                f"Use target `v` or `flow`, or set times.t_max below {bad[0]:.4g} (such as 0.995)."
            )


class X0(Target):
    """y = x0, the data itself."""

    kind: Literal["x0"] = "x0"

    def a(self, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def b(self, process: Process, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def x0(self, process: Process, x_t: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return y  # the solve, also at t = 0 where its det vanishes


class Eps(Target):
    """y = eps, the noise. Ill-posed where alpha = 0. Source: Ho et al. 2020, Eq. 14."""

    kind: Literal["eps"] = "eps"

    def a(self, process: Process, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def b(self, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class V(Target):
    """y = alpha·eps - sigma·x0. Source: Salimans & Ho 2022, Section 4."""

    kind: Literal["v"] = "v"

    def a(self, process: Process, t: Tensor) -> Tensor:
        return -process.sigma(t)

    def b(self, process: Process, t: Tensor) -> Tensor:
        return process.alpha(t)


class Flow(Target):
    """y = eps - x0, the velocity of the straight line. Source: Lipman et al. 2022."""

    kind: Literal["flow"] = "flow"

    def a(self, process: Process, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def b(self, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class MinSNR(Config):
    """Loss weight min(SNR, gamma) on the x0 error, written for whatever the target is.

    On y it is min(SNR, gamma)·(sigma/det)²: min(SNR, gamma)/SNR for eps and min(SNR, gamma)/(SNR + 1) for v.
    Source: Hang et al. 2023, Section 3.4.
    """

    gamma: float = Field(5.0, gt=0)

    def weight(self, process: Process, target: Target, t: Tensor) -> Tensor:
        """Return the weight of |y error|² at times t, in t's shape."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        det = target.det(process, t)
        # min(alpha²/sigma², gamma)·sigma²/det², without dividing by sigma.
        weight = torch.minimum(alpha**2, self.gamma * sigma**2) / det**2
        return torch.where((sigma == 0) & (det == 0), self.gamma, weight)  # x0's limit at t = 0


TARGETS = Family("target", {"x0": X0, "eps": Eps, "v": V, "flow": Flow})
