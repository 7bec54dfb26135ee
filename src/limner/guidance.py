"""Guidance takes a conditional denoiser and what to condition it on, and returns a `Denoise`, all that samplers know.

    guided = cfg(model.denoise, prompt, model.null, scale=2.0)          # or GUIDANCE.parse({"kind": "cfg", "scale":
    2.0}).apply(...) for step in SAMPLERS["ab2"](guided, x, times, process): ...

The formulas speak of x0; where one lives in velocity space (CFG-Zero*), the flow's velocity of any process is used. A
scale of 0 is unconditional, 1 conditional, above 1 guided. A negative prompt is another conditioning in the place of
`null`. Next: `samplers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from limner.config import Config, Family
from limner.errors import ConfigError, nearest
from limner.process import Process
from limner.process.schedules import expand
from limner.types import Conditioning, Denoise

ConditionalDenoise = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""`denoise(x_t [B C H W], t [B], conditioning of B captions) -> x0 [B C H W]`."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`rule(x_t, t, x0_c, x0_u) -> x0`: how two answers make one."""

CONVENTIONS = {"standard": 0.0, "plus-one": 1.0}
"""What a scale means: under `standard` 0 is unconditional, 1 conditional; under `plus-one` 0 is: (1 + w)·c - w·u."""


def scale_from(value: float, convention: str = "standard") -> float:
    """Return the standard scale of one given in a convention: w, or w + 1. Raises: ConfigError for an unknown one."""
    if convention not in CONVENTIONS:
        raise ConfigError(
            f"guidance convention: there is no {convention!r}.{nearest(convention, CONVENTIONS)} Allowed: {', '.join(CONVENTIONS)}."
        )
    return value + CONVENTIONS[convention]


# ------------------------------------------------------------------------------------------------- denoise -> denoise


def cfg(
    denoise: ConditionalDenoise,
    cond: Conditioning,
    null: Conditioning,
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Denoise:
    """Classifier-free guidance: x0 = x0_u + scale·(x0_c - x0_u). Source: Ho & Salimans 2022, Eq. 6.

    One doubled batch a call; outside the interval and at scale 1 only the conditional half, at scale 0 only the
    unconditional one.

    Arguments:
        cond: conditioning of the B captions.
        null: of no caption, or of the negative prompts: B of them, or one for all.
        interval: the times t where guidance acts, both ends included. Source: Kynkäänniemi et al. 2024.
        rescale: in [0, 1], how far the result's standard deviation is brought back to x0_c's, image by image. Source:
            Lin et al. 2024, Section 3.4. Differs: on x0, of which the overexposure that it cures is a property, instead
            of on v.
    """
    check(scale=scale, interval=interval, rescale=rescale)
    null = _matching(null, cond)
    if scale == 1 or scale == 0:
        return _gated(_alone(denoise, null if scale == 0 else cond), _alone(denoise, cond), interval)

    def rule(x_t: Tensor, t: Tensor, x0_c: Tensor, x0_u: Tensor) -> Tensor:
        guided = torch.lerp(x0_u, x0_c, scale)
        return _rescaled(guided, x0_c, rescale) if rescale else guided

    return _gated(_doubled(denoise, cond, null, rule), _alone(denoise, cond), interval)


def autoguidance(
    denoise: ConditionalDenoise,
    weak: ConditionalDenoise,
    cond: Conditioning,
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Denoise:
    """Guidance away from a weaker version of the model: x0 = x0_weak + scale·(x0 - x0_weak), for the same captions.

    Arguments:
        weak: an earlier snapshot or a smaller network. Source: Karras et al. 2024, "Guiding a diffusion model with a
            bad version of itself".
    """
    check(scale=scale, interval=interval)
    strong = _alone(denoise, cond)
    if scale == 1:
        return strong
    feeble = _alone(weak, cond)
    return _gated(lambda x_t, t: torch.lerp(feeble(x_t, t), strong(x_t, t), scale), strong, interval)


def cfg_zero(
    denoise: ConditionalDenoise,
    cond: Conditioning,
    null: Conditioning,
    *,
    process: Process,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    zero_above: float = 1.0,
) -> Denoise:
    """CFG-Zero*: v = s·v_u + scale·(v_c - s·v_u) with s = <v_c, v_u>/|v_u|², image by image. Source: Fan et al. 2025.

    v is the flow's velocity: with z = x_t/(alpha + sigma) and tau = sigma/(alpha + sigma), v = (z - x0)/tau.

    Arguments:
        zero_above: v = 0 (the state stands still) at t above this, without asking the network; the paper's 4 % of the
            steps is 0.96.
    """
    check(scale=scale, interval=interval, zero_above=zero_above)
    null = _matching(null, cond)

    def rule(x_t: Tensor, t: Tensor, x0_c: Tensor, x0_u: Tensor) -> Tensor:
        z, _ = _flow(process, x_t, t)
        v_c, v_u = z - x0_c, z - x0_u  # times tau, which cancels in s and comes back below
        s = _dot(v_c, v_u) / _dot(v_u, v_u).clamp_min(torch.finfo(x_t.dtype).tiny)
        return z - torch.lerp(s * v_u, v_c, scale)

    guided = _alone(denoise, cond)
    if scale != 1:
        guided = _gated(_doubled(denoise, cond, null, rule), guided, interval)
    if zero_above >= 1:
        return guided
    return _gated(guided, lambda x_t, t: _flow(process, x_t, t)[0], (0.0, zero_above))


def apg(
    denoise: ConditionalDenoise,
    cond: Conditioning,
    null: Conditioning,
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    parallel: float = 0.0,
    momentum: float = -0.5,
    limit: float = 0.0,
) -> Denoise:
    """Adaptive projected guidance: x0 = x0_c + (scale - 1)·(d_orthogonal + parallel·d_parallel).

    d = x0_c - x0_u, plus momentum·(d before), shortened to at most `limit`, and split along and across x0_c, image by
    image. The momentum is
    kept from call to call: make one for every generation (a t above the last one's starts afresh).
    Source: Sadat et al. 2024.

    Arguments:
        parallel: in [0, 1], how much is kept of the part that saturates; 1 with momentum 0 and no limit is `cfg`.
        momentum: negative damps what the last steps already did.
        limit: longest allowed |d|; 0 for none.
    """
    check(scale=scale, interval=interval, parallel=parallel, momentum=momentum, limit=limit)
    null = _matching(null, cond)
    if scale == 1:
        return _alone(denoise, cond)
    memory: dict[str, Tensor] = {}

    def rule(x_t: Tensor, t: Tensor, x0_c: Tensor, x0_u: Tensor) -> Tensor:
        d = x0_c - x0_u
        if momentum:
            if memory and bool((t <= memory["t"]).all()):
                d = d + momentum * memory["d"]
            memory.update(t=t, d=d)
        if limit:
            d = d * (limit / _dot(d, d).sqrt().clamp_min(1e-12)).clamp_max(1)
        along = _dot(d, x0_c) / _dot(x0_c, x0_c).clamp_min(torch.finfo(x_t.dtype).tiny) * x0_c
        return x0_c + (scale - 1) * (d - (1 - parallel) * along)

    return _gated(_doubled(denoise, cond, null, rule), _alone(denoise, cond), interval)


# ---------------------------------------------------------------------------------------------------- the parts


def _alone(denoise: ConditionalDenoise, cond: Conditioning) -> Denoise:
    return lambda x_t, t: denoise(x_t, t, cond)


def _doubled(denoise: ConditionalDenoise, cond: Conditioning, null: Conditioning, rule: Rule) -> Denoise:
    """Ask for both halves in one batch of 2B, whose conditioning is put together once, here."""
    both = Conditioning.cat([cond, null])

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        x0_c, x0_u = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return rule(x_t, t, x0_c, x0_u)

    return guided


def _gated(inside: Denoise, outside: Denoise, interval: tuple[float, float]) -> Denoise:
    """Use `inside` where every t lies in the interval, `outside` where none does, and both, by image, where mixed."""
    low, high = interval
    if low <= 0 and high >= 1:
        return inside

    def gated(x_t: Tensor, t: Tensor) -> Tensor:
        here = (t >= low - 1e-6) & (t <= high + 1e-6)  # t is single precision: 0.9 may be 0.90000004
        num = int(here.sum())
        if num == len(t):
            return inside(x_t, t)
        if num == 0:
            return outside(x_t, t)
        return torch.where(expand(here.to(x_t.dtype), x_t) > 0, inside(x_t, t), outside(x_t, t))

    return gated


def _matching(null: Conditioning, cond: Conditioning) -> Conditioning:
    """Return `null` with one row for each of cond's."""
    if len(null) == len(cond):
        return null
    if len(null) != 1:
        raise ConfigError(f"guidance: {len(cond)} prompts and {len(null)} negative prompts; give one for each, or one for all.")
    return null[[0] * len(cond)]


def _rescaled(guided: Tensor, x0_c: Tensor, amount: float) -> Tensor:
    spread, wanted = (x.flatten(1).std(dim=1) for x in (guided, x0_c))
    factor = wanted / spread.clamp_min(1e-12)
    return guided * expand(1 + amount * (factor - 1), guided)


def _flow(process: Process, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return (x_t/(alpha + sigma), sigma/(alpha + sigma))."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return x_t / expand(alpha + sigma, x_t), expand(sigma / (alpha + sigma), x_t)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each image, [B, 1, 1, 1]."""
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))


_RANGES = {
    "scale": (-100.0, 1000.0),
    "rescale": (0.0, 1.0),
    "zero_above": (0.0, 1.0),
    "parallel": (0.0, 1.0),
    "momentum": (-1.0, 1.0),
    "limit": (0.0, 1e6),
}


def check(*, interval: tuple[float, float] = (0.0, 1.0), **values: float) -> None:
    """Raise ConfigError when a value is out of its range, or the interval is not two rising times in [0, 1]."""
    for name, value in values.items():
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ConfigError(f"guidance: {name} must lie in [{low:g}, {high:g}], got {value}.")
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise ConfigError(f"guidance: interval must be two times 0 <= low <= high <= 1, got {tuple(interval)}.")


# ---------------------------------------------------------------------------------------------------- as config


class Guidance(Config):
    """How a model is guided; `apply` makes the Denoise.

    Arguments:
        scale: in the given convention.
        interval: times t where guidance acts.
        convention: `standard` (1 is conditional) or `plus-one` (0 is conditional).
    """

    kind: str
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    convention: Literal["standard", "plus-one"] = "standard"

    @property
    def w(self) -> float:
        """The scale in the standard convention."""
        return scale_from(self.scale, self.convention)

    def apply(
        self,
        denoise: ConditionalDenoise,
        cond: Conditioning,
        null: Conditioning,
        *,
        process: Process,
        weak: ConditionalDenoise | None = None,
    ) -> Denoise:
        """Return the guided denoiser for these captions; a new one for every generation.

        Arguments:
            null: the null conditioning, or that of negative prompts.
            weak: the earlier snapshot, for `auto`.
        """
        raise NotImplementedError

    @field_validator("interval")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        check(interval=value)
        return value

    @field_validator("scale")
    @classmethod
    def _bounded(cls, value: float) -> float:
        check(scale=value)
        return value


class Cfg(Guidance):
    """Classifier-free guidance: see `cfg`."""

    kind: Literal["cfg"] = "cfg"
    rescale: float = Field(0.0, ge=0, le=1)

    def apply(
        self,
        denoise: ConditionalDenoise,
        cond: Conditioning,
        null: Conditioning,
        *,
        process: Process,
        weak: ConditionalDenoise | None = None,
    ) -> Denoise:
        return cfg(denoise, cond, null, scale=self.w, interval=self.interval, rescale=self.rescale)


class Auto(Guidance):
    """Autoguidance from an earlier snapshot: see `autoguidance`."""

    kind: Literal["auto"] = "auto"

    def apply(
        self,
        denoise: ConditionalDenoise,
        cond: Conditioning,
        null: Conditioning,
        *,
        process: Process,
        weak: ConditionalDenoise | None = None,
    ) -> Denoise:
        if weak is None:
            raise ConfigError("guidance `auto` needs a weaker model: an earlier snapshot of the run.")
        return autoguidance(denoise, weak, cond, scale=self.w, interval=self.interval)


class CfgZero(Guidance):
    """CFG-Zero*: see `cfg_zero`."""

    kind: Literal["cfg-zero"] = "cfg-zero"
    zero_above: float = Field(1.0, ge=0, le=1)

    def apply(
        self,
        denoise: ConditionalDenoise,
        cond: Conditioning,
        null: Conditioning,
        *,
        process: Process,
        weak: ConditionalDenoise | None = None,
    ) -> Denoise:
        return cfg_zero(denoise, cond, null, process=process, scale=self.w, interval=self.interval, zero_above=self.zero_above)


class Apg(Guidance):
    """Adaptive projected guidance: see `apg`."""

    kind: Literal["apg"] = "apg"
    parallel: float = Field(0.0, ge=0, le=1)
    momentum: float = Field(-0.5, ge=-1, le=1)
    limit: float = Field(0.0, ge=0)

    def apply(
        self,
        denoise: ConditionalDenoise,
        cond: Conditioning,
        null: Conditioning,
        *,
        process: Process,
        weak: ConditionalDenoise | None = None,
    ) -> Denoise:
        return apg(
            denoise,
            cond,
            null,
            scale=self.w,
            interval=self.interval,
            parallel=self.parallel,
            momentum=self.momentum,
            limit=self.limit,
        )


GUIDANCE = Family("guidance", {"cfg": Cfg, "auto": Auto, "cfg-zero": CfgZero, "apg": Apg})
