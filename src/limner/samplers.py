"""From noise to data: samplers are plain generators over `denoise(x_t, t) -> x0`, and yield one `Step` a step.

    for step in SAMPLERS["ab2"](denoise, x, times, process):
        ...                                     # preview, progress, cancelling: the loop is yours
    sample = step.x

`times` is a falling float64 grid (`process/times.py`), x [B C H W] the state at times[0] (`start` makes it), and
`noise` a function that returns fresh N(0, 1) in x's shape for the stochastic ones; drawn from one generator an image,
batching never changes an image.

All of them are finite at t = 1 where alpha = 0, land on x = x0 at t = 0, and take their coefficients from alpha and
sigma alone, so that each works under every process. The deterministic ones share an ODE; `order` is how fast they
approach its solution. Those without inner stages are tables of numbers, computed in `samplers_plan.py`, the file to
read next.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limner.config import load_own, may_run
from limner.errors import ConfigError, nearest
from limner.process import Process
from limner.samplers_plan import (
    Knots,
    adams_flow,
    adams_log_snr,
    check_times,
    diffused,
    follow,
    knots,
    midpoint_log_snr,
    posterior,
)
from limner.types import Denoise, Step

Noise = Callable[[], Tensor]

# ---------------------------------------------------------------------------------------------- one evaluation a step


def ddpm(denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None) -> Iterator[Step]:
    """Ancestral sampling with the posterior between the two grid times, not the unit-step one; no noise onto t = 0.

    x_s = (alpha_ts·sigma_s²/sigma_t²)·x_t + alpha_s·(1 - e^-2h)·x0 + sigma_s·sqrt(1 - e^-2h)·z, alpha_ts =
    alpha_t/alpha_s, e^-h = alpha_ts·sigma_s/sigma_t. Source: Ho et al. 2020, Eq. 7, between any two times.
    """
    return follow(denoise, x, posterior(_knots(process, times), eta=1.0), noise)


def ddim(
    denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None, eta: float = 0.0
) -> Iterator[Step]:
    """x_s = alpha_s·x0 + sqrt(sigma_s² - c²)·eps + c·z with c = eta times DDPM's spread.

    Source: Song et al. 2020, Eq. 12 and 16.

    Arguments:
        eta: 0 is the ODE (first order; needs no noise), 1 is `ddpm`.
    """
    _between("ddim: eta", eta, 0, 1)
    return follow(denoise, x, posterior(_knots(process, times), eta=eta), noise)


def euler(denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None) -> Iterator[Step]:
    """x_s = (sigma_s/sigma_t)·x_t + (alpha_s - alpha_t·sigma_s/sigma_t)·x0: Euler's step on the flow. First order.

    Under RectifiedFlow it is x - v·dt. Under any other process it is Euler's step after scaling it to a flow, which is
    DDIM (eta = 0)
    exactly: the two names are one sampler.
    """
    return follow(denoise, x, adams_flow(_knots(process, times), order=1), noise)


def euler_stochastic(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    process: Process,
    *,
    noise: Noise | None = None,
    strength: float = 1.0,
    offset: float = 0.008,
    corrected: bool = True,
) -> Iterator[Step]:
    """Euler on the flow with noise added at every step but the last, in the flow's time tau = sigma/(alpha + sigma).

    g(tau) = strength·tau·(1 - tau)/(1 - tau + offset): nearly tau, and 0 at tau = 1.

    Arguments:
        strength: 0 is `euler`, 1 the published amount.
        corrected: push back along the score by g²/2, so that the distribution is right in the limit of many steps.
            False only adds the noise, as x <- x - v·dt + g·sqrt(dt)·z does: livelier, and with too much variance.
    """
    _between("euler-stochastic: strength", strength, 0, 10)
    _between("euler-stochastic: offset", offset, 1e-6, 1)
    plan = diffused(_knots(process, times), strength=strength, offset=offset, corrected=corrected)
    return follow(denoise, x, plan, noise)


def ab2(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    process: Process,
    *,
    noise: Noise | None = None,
    coefficients: Sequence[Sequence[float]] | None = None,
) -> Iterator[Step]:
    """Adams-Bashforth of order 2 on the flow: z <- z + d·[(1 + r/2)·v - (r/2)·v_before], r = d/d_before in tau.

    Arguments:
        coefficients: per step the weights of v, newest first, in units of the step, in place of Adams' (a fitted grid
            has them).
    """
    k = _knots(process, times)
    return follow(denoise, x, adams_flow(k, order=2, coefficients=_fitting(coefficients, k, 2)), noise)


def ab3(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    process: Process,
    *,
    noise: Noise | None = None,
    coefficients: Sequence[Sequence[float]] | None = None,
) -> Iterator[Step]:
    """Adams-Bashforth of order 3 on the flow; the first step is corrected by the trapezium once v is known.

    Arguments:
        coefficients: as for `ab2`, up to three a step; the first step is then not corrected.
    """
    k = _knots(process, times)
    correct = 1 if coefficients is None else 0
    return follow(denoise, x, adams_flow(k, order=3, correct=correct, coefficients=_fitting(coefficients, k, 3)), noise)


def dpmpp_2m(denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None) -> Iterator[Step]:
    """DPM-Solver++(2M), of order 2 in log-SNR. Source: Lu et al. 2022 (DPM-Solver++), Algorithm 2."""
    return follow(denoise, x, midpoint_log_snr(_knots(process, times)), noise)


def dpmpp_3m(denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None) -> Iterator[Step]:
    """DPM-Solver++(3M), of order 3 in log-SNR. Source: Lu et al. 2022 (DPM-Solver++), Section 3.

    Differs: the parabola through the last three x0 is integrated exactly, and the first step is corrected once x0 after
    it is known (at no cost). The coefficients in circulation give the second difference half its weight, which leaves
    order 2.
    """
    return follow(denoise, x, adams_log_snr(_knots(process, times), order=3, correct=1), noise)


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None) -> Iterator[Step]:
    """The SDE form of DPM-Solver++(2M): DDPM's step with x0 extrapolated to its middle. No noise onto t = 0."""
    return follow(denoise, x, midpoint_log_snr(_knots(process, times), stochastic=True), noise)


def abm(
    denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None, order: int = 2
) -> Iterator[Step]:
    """Adams-Bashforth-Moulton on the flow: a predictor of `order`, corrected one order higher once v is known there.

    One evaluation a step (predict, evaluate, correct), and no lower order anywhere: neither at t = 1 nor onto t = 0. On
    even steps it is `ab3`; on others it is steadier. Source: Hairer, Norsett & Wanner 1993, Section III.1, in PEC mode.

    Arguments:
        order: 1, 2 or 3, of the predictor; one more of the whole, but 3 at most, for the sake of the first step.
    """
    k = _knots(process, times)
    return follow(denoise, x, adams_flow(k, order=_order("abm", order), correct=len(k.t)), noise)


def unipc(
    denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None, order: int = 2
) -> Iterator[Step]:
    """The same idea in log-SNR: polynomials of x0 under exponential integrals. Source: Zhao et al. 2023.

    Arguments:
        order: 1, 2 or 3, of the predictor, as for `abm`.
    Differs: all conditions are solved exactly, also where the paper allows 1/2; then its choice of B(h) no longer
    matters. The first step from alpha = 0 is corrected by the trapezium in alpha/sigma.
    """
    k = _knots(process, times)
    return follow(denoise, x, adams_log_snr(k, order=_order("unipc", order), correct=len(k.t)), noise)


def _knots(process: Process, times: Tensor) -> Knots:
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    check_times(times)
    return knots(process, times)


def _order(name: str, order: int) -> int:
    if order not in (1, 2, 3):
        raise ConfigError(f"{name}: order must be 1, 2 or 3, got {order!r}.")
    return int(order)


# --------------------------------------------------------------------------------------------- two evaluations a step


def heun(denoise: Denoise, x: Tensor, times: Tensor, process: Process, *, noise: Noise | None = None) -> Iterator[Step]:
    """Heun's method on the flow: the mean of v at both ends of the step; Euler onto t = 0. Two evaluations a step.

    Source: Karras et al. 2022, Algorithm 1. Differs: in the flow's time, which is finite where alpha = 0.
    """
    return _heun(denoise, x, process, _knots(process, times), [None] * (len(times) - 1), lambda: x)


def edm_churn(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    process: Process,
    *,
    noise: Noise | None = None,
    churn: float = 40.0,
    ratio_min: float = 0.05,
    ratio_max: float = 50.0,
    noise_scale: float = 1.003,
) -> Iterator[Step]:
    """Heun with noise added before each step: from q = sigma/alpha up to q·(1 + gamma), then down.

    gamma = min(churn/steps, sqrt(2) - 1) where ratio_min <= q <= ratio_max, and never above the first time; 0 where
    alpha = 0.
    Source: Karras et al. 2022, Algorithm 2 (S_churn, S_min, S_max, S_noise). Differs: Heun's step is in the flow's
    time.
    """
    _between("edm-churn: churn", churn, 0, 1e6)
    _between("edm-churn: noise_scale", noise_scale, 0, 2)
    if noise is None:
        raise ConfigError("edm-churn is stochastic: it needs `noise`, a function that returns fresh N(0, 1) in x's shape.")
    k = _knots(process, times)
    gamma = min(churn / (len(k.t) - 1), math.sqrt(2) - 1)
    ratios = [sigma / max(alpha, 1e-300) for alpha, sigma in zip(k.alpha[:-1], k.sigma, strict=False)]
    inside = [alpha > 0 and ratio_min <= q <= ratio_max for alpha, q in zip(k.alpha, ratios, strict=False)]
    above = process.time_of_log_snr(-2 * (torch.tensor(ratios, dtype=torch.float64) * (1 + gamma)).log()).tolist()
    tops = [min(up, k.t[0]) for up in above]
    raised = [up if here and up > t else None for up, here, t in zip(tops, inside, k.t, strict=False)]
    return _heun(denoise, x, process, k, raised, noise, noise_scale=noise_scale)


def _heun(
    denoise: Denoise,
    x: Tensor,
    process: Process,
    k: Knots,
    raised: Sequence[float | None],
    noise: Noise,
    *,
    noise_scale: float = 1.0,
) -> Iterator[Step]:
    """Heun's steps, each from raised[i] where that is a time."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    starts = [t if up is None else up for t, up in zip(k.t[:-1], raised, strict=True)]
    high = knots(process, torch.tensor([*starts, k.t[-1]], dtype=torch.float64)) if raised != [None] * len(raised) else k
    begin = torch.tensor(starts, dtype=dtype, device=x.device)
    end = torch.tensor(k.t[1:], dtype=dtype, device=x.device)
    for i, t in enumerate(begin):
        if raised[i] is not None:
            keep = high.alpha[i] / k.alpha[i]
            spread = math.sqrt(max(high.sigma[i] ** 2 - (keep * k.sigma[i]) ** 2, 0.0))
            x = torch.add(x * keep, noise(), alpha=noise_scale * spread)
        x0 = denoise(x, t.expand(len(x)))
        z, d = x / high.total[i], k.tau[i + 1] - high.tau[i]
        v = (z - x0) / high.tau[i]
        z_next = torch.add(z, v, alpha=d)
        if k.tau[i + 1] > 0:
            x0_next = denoise(z_next * k.total[i + 1], end[i].expand(len(x)))
            v_next = (z_next - x0_next) / k.tau[i + 1]
            z_next = torch.add(z, v + v_next, alpha=d / 2)
        x = z_next * k.total[i + 1]
        yield Step(k.t[i + 1], x, x0)


# ---------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Sampler:
    """A sampler and what is to be known before it runs.

    Arguments:
        function: the generator function `(denoise, x, times, process, *, noise=None, **options)`.
        order: of convergence to the ODE's solution; for stochastic ones, of the distribution.
        stochastic: it needs `noise`.
        stages: network evaluations of a step that does not end at t = 0; the step onto t = 0 takes one.
    """

    function: Callable[..., Iterator[Step]]
    order: int
    stochastic: bool = False
    stages: int = 1

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the sampler's own options."""
        known = list(inspect.signature(self.function).parameters.values())[4:]
        return tuple(p.name for p in known if p.name != "noise")

    def evaluations(self, num_steps: int) -> int:
        """Return how often `denoise` is called for a grid of `num_steps` steps that ends at t = 0."""
        return self.stages * num_steps - (self.stages - 1)

    def steps_for(self, evaluations: int) -> int:
        """Return the most steps that take at most `evaluations` calls of `denoise`, at least 1."""
        return max(1, (evaluations + self.stages - 1) // self.stages)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        process: Process,
        *,
        noise: Noise | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """Return the generator of steps.

        Raises: ConfigError for an unknown option or a bad value, at the latest at the first step.
        """
        for name in options:
            if name not in self.options:
                allowed = f"Allowed: {', '.join(self.options)}." if self.options else "It has none."
                raise ConfigError(f"sampler option {name!r} is not known.{nearest(name, self.options)} {allowed}")
        return self.function(denoise, x, times, process, noise=noise, **options)


SAMPLERS: dict[str, Sampler] = {
    "ab2": Sampler(ab2, order=2),
    "ab3": Sampler(ab3, order=3),
    "abm": Sampler(abm, order=3),
    "ddim": Sampler(ddim, order=1),
    "ddpm": Sampler(ddpm, order=1, stochastic=True),
    "dpmpp-2m": Sampler(dpmpp_2m, order=2),
    "dpmpp-2m-sde": Sampler(dpmpp_2m_sde, order=1, stochastic=True),
    "dpmpp-3m": Sampler(dpmpp_3m, order=3),
    "edm-churn": Sampler(edm_churn, order=1, stochastic=True, stages=2),
    "euler": Sampler(euler, order=1),
    "euler-stochastic": Sampler(euler_stochastic, order=1, stochastic=True),
    "heun": Sampler(heun, order=2, stages=2),
    "unipc": Sampler(unipc, order=3),
}


def get_sampler(name: str) -> Sampler:
    """Return the sampler called `name`, or FILE.py:NAME (a Sampler or a sampler function) where `config.own_code` allows it.

    Raises: ConfigError naming the nearest samplers.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    if ".py:" in name and not may_run(name):
        raise ConfigError(
            f"sampler: {name!r} names code in a file, and a model does not make it run. If you trust it, say so: --sampler {name}"
        )
    if ".py:" in name:
        found = load_own(name)
        return found if isinstance(found, Sampler) else Sampler(found, order=1, stochastic=True)
    raise ConfigError(f"sampler: there is no {name!r}.{nearest(name, SAMPLERS)} Allowed: {', '.join(SAMPLERS)}.")


# ---------------------------------------------------------------------------------------------------- where to start


def start(process: Process, x0: Tensor | None, eps: Tensor, t: float) -> Tensor:
    """Return the state x_t [B C H W] to sample from at time t: alpha·x0 + sigma·eps, or sigma·eps without an x0.

    With an image's x0 and a grid from t < 1, sampling is image-to-image: the smaller t, the nearer to the image.
    """
    time = torch.full((len(eps),), t, dtype=torch.float64, device=eps.device)
    return process.add_noise(torch.zeros_like(eps) if x0 is None else x0, eps, time)


def inpaint(denoise: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """Return a `denoise` that knows part of the picture: x0 = mask·known + (1 - mask)·denoise(x_t, t).

    Arguments:
        known: [B, C, H, W] the picture, of which only the masked part matters.
        mask: broadcastable to it, 1 where the picture is kept.
    With an ODE sampler the known part then moves along its own straight line, so the network sees it at the right
    noise, and at t = 0 it is the picture exactly.
    """

    def filled(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(denoise(x_t, t), known, mask.to(known.dtype).expand_as(known))

    return filled


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return noise on the great circle from a (weight 0) to b (weight 1), both [B C H W], image by image.

    With the angle w between them: sin((1 - weight)·w)/sin(w)·a + sin(weight·w)/sin(w)·b, which keeps the length that
        noise has; a line
    where the two point the same or the opposite way.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine).reshape(-1, *[1] * (a.ndim - 1))
    sine = torch.sin(angle)
    flat = sine < 1e-4
    divisor = torch.where(flat, torch.ones_like(sine), sine)
    of_a = torch.where(flat, torch.full_like(sine, 1 - weight), torch.sin((1 - weight) * angle) / divisor)
    of_b = torch.where(flat, torch.full_like(sine, weight), torch.sin(weight * angle) / divisor)
    return of_a.to(a.dtype) * a + of_b.to(a.dtype) * b


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie in [{low:g}, {high:g}], got {value}.")


def _fitting(coefficients: Sequence[Sequence[float]] | None, k: Knots, order: int) -> Sequence[Sequence[float]] | None:
    """Return the coefficients, checked against the grid."""
    if coefficients is None:
        return None
    lengths = [len(row) for row in coefficients]
    if len(lengths) != len(k.t) - 1 or any(not 1 <= n <= min(i + 1, order) for i, n in enumerate(lengths)):
        raise ConfigError(f"coefficients: {len(k.t) - 1} rows of 1 to {order} weights (the first of 1), got rows of {lengths}.")
    return coefficients
