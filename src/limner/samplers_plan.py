"""A sampler without inner stages is a table of numbers: this file computes the numbers, and `follow` walks along them.

With n = alpha + sigma, every process is a rectified flow in disguise: z = x/n has the time tau = sigma/n and the
constant-data solution z = (1 - tau)·x0 + tau·eps, so dz/dtau = v = eps - x0 = (z - x0)/tau. The same ODE in log-SNR,
with lam = log(alpha/sigma), reads d(x/sigma) = x0·d(e^lam). Both have an exact step from t to s for any polynomial:

    flow     x_s = (n_s/n_t)·x_t + n_s·integral of v dtau             finite wherever sigma > 0: also where alpha = 0
    log-SNR  x_s = (sigma_s/sigma_t)·x_t + sigma_s·integral of x0·e^lam dlam      lam is infinite where alpha or sigma
    is 0

A multistep solver puts a polynomial through what the network said at the last few times and integrates it exactly. The
results are the `Row`s below: all of it is done in Python floats before the first network evaluation. Next:
`samplers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from limner.errors import ConfigError
from limner.process import Process
from limner.types import Denoise, Step


@dataclass(frozen=True, slots=True)
class Row:
    """One step, from time `t` to time `s`, with x0 = denoise(x, t) and f = x0 or f = mix[0]·x + mix[1]·x0:

        x_s = carry·x_t + sum_j weights[j]·f_j + noise·z        f_0 the newest, f_1 the one before, ...; z ~ N(0, 1)

    Arguments:
        mix: None for f = x0.
        correction: (carry, weights): before the step, x_t is replaced by carry·x_(before t) + sum_j weights[j]·f_j, now
            that f at t is known; it costs no evaluation.
    """

    t: float
    s: float
    carry: float
    weights: tuple[float, ...]
    mix: tuple[float, float] | None = None
    noise: float = 0.0
    correction: tuple[float, tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Knots:
    """A process at the times of a grid, in Python floats; `lam` is -inf where alpha = 0 and inf where sigma = 0."""

    t: list[float]
    alpha: list[float]
    sigma: list[float]
    total: list[float]
    tau: list[float]
    lam: list[float]

    def ratio(self, i: int, j: int) -> float:
        """Return (alpha_i/sigma_i)/(alpha_j/sigma_j) = exp(lam_i - lam_j), i the noisier; 0 at the infinite ends."""
        if self.alpha[j] == 0:
            return 1.0  # from pure noise to pure noise nothing changes
        return self.alpha[i] * self.sigma[j] / (self.sigma[i] * self.alpha[j])


def check_times(times: Tensor) -> None:
    """Raise ConfigError unless `times` [N + 1] falls strictly inside [0, 1]."""
    if times.ndim != 1 or len(times) < 2:
        raise ConfigError(f"times: expected a list of at least two times, got shape {list(times.shape)}.")
    falls = bool((times[1:] < times[:-1]).all())  # also False for NaN
    if not (falls and float(times[-1]) >= 0 and float(times[0]) <= 1):
        raise ConfigError(
            f"times: expected falling times in [0, 1], such as 1, 0.5, 0; got {[round(t, 4) for t in times.tolist()[:8]]}."
        )


def knots(process: Process, times: Tensor) -> Knots:
    """Return the process at `times` [N + 1], of which only the last may have sigma = 0 (else: ConfigError)."""
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    alpha, sigma = process.alpha(times).tolist(), process.sigma(times).tolist()
    if min(sigma[:-1]) <= 0:
        raise ConfigError(
            f"times: process {process.kind!r} has no noise at t = {times[sigma.index(0.0)]:.3g}, above the grid's end."
        )
    total = [a + s for a, s in zip(alpha, sigma, strict=True)]
    tau = [s / n for s, n in zip(sigma, total, strict=True)]
    lam = [math.inf if s == 0 else -math.inf if a == 0 else math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    return Knots(times.tolist(), alpha, sigma, total, tau, lam)


def follow(denoise: Denoise, x: Tensor, rows: Sequence[Row], noise: Callable[[], Tensor] | None = None) -> Iterator[Step]:
    """Walk x [B C H W] along the rows; yield a Step after each."""
    if noise is None and any(row.noise for row in rows):
        raise ConfigError("this sampler is stochastic: it needs `noise`, a function that returns fresh N(0, 1) in x's shape.")
    depth = max(len(row.weights) for row in rows)
    history: list[Tensor] = []
    before = x
    for row, t in zip(rows, _column([row.t for row in rows], x), strict=True):
        x0 = denoise(x, t.expand(len(x)))
        f = x0 if row.mix is None else torch.add(x0 * row.mix[1], x, alpha=row.mix[0])
        history = [f, *history[:depth]]
        if row.correction is not None:
            x = _combine(before, *row.correction, history)
        before = x
        x = _combine(x, row.carry, row.weights, history)
        if row.noise and noise is not None:
            x.add_(noise(), alpha=row.noise)
        yield Step(row.s, x, x0)


def _combine(x: Tensor, carry: float, weights: Sequence[float], history: Sequence[Tensor]) -> Tensor:
    out = x * carry
    for weight, f in zip(weights, history, strict=False):
        out.add_(f, alpha=weight)
    return out


def _column(times: Sequence[float], x: Tensor) -> Tensor:
    """Return the times as a tensor beside x, in at least single precision."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.tensor(times, dtype=dtype, device=x.device)


# ---------------------------------------------------------------------------------------------------- the two integrals


def moments_flat(num: int) -> list[float]:
    """Return the integral of u^k over [0, 1] for k < num."""
    return [1 / (k + 1) for k in range(num)]


def moments_exponential(num: int, h: float) -> list[float]:
    """Return h·integral of e^((u - 1)h)·u^k over [0, 1] for k < num: 1 - e^-h, then 1 - (k/h)·(the one before).

    Below h = 1 that recursion cancels, and the power series e^-h·sum_m h^(m+1)/(m!·(m + k + 1)) is summed instead.
    """
    if h < 1:
        return [math.exp(-h) * sum(h ** (m + 1) / (math.factorial(m) * (m + k + 1)) for m in range(20)) for k in range(num)]
    values = [-math.expm1(-h)]
    for k in range(1, num):
        values.append(1 - k / h * values[-1])
    return values


def interpolatory(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Return the weights w with sum_j w_j·p(nodes_j) = the integral of p, for polynomials p of degree < len(nodes)."""
    vandermonde = np.vander(np.asarray(nodes, dtype=np.float64), len(nodes), increasing=True).T
    return [float(w) for w in np.linalg.solve(vandermonde, np.asarray(moments[: len(nodes)]))]


# ---------------------------------------------------------------------------------------------------- plans


def adams_flow(k: Knots, *, order: int, correct: int = 0, coefficients: Sequence[Sequence[float]] | None = None) -> list[Row]:
    """Return the plan of Adams-Bashforth of `order` on the flow, in the time tau.

    Arguments:
        correct: how many steps are improved afterwards by Adams-Moulton, one order higher, at no cost: 0, 1, ...
        coefficients: per step the weights of v, newest first, in units of the step; None for Adams' own.
    """
    rows = []
    for i in range(len(k.t) - 1):
        num = min(i + 1, order)
        own = None if coefficients is None else coefficients[i]
        weights = _flat(k, i, range(i, i - num, -1)) if own is None else [(k.tau[i + 1] - k.tau[i]) * c for c in own]
        rows.append(
            Row(
                k.t[i],
                k.t[i + 1],
                k.total[i + 1] / k.total[i],
                tuple(k.total[i + 1] * w for w in weights),
                mix=(1 / k.sigma[i], -1 / k.tau[i]),
                correction=_correct_flow(k, i, order) if 0 < i <= correct else None,
            )
        )
    return rows


def _flat(k: Knots, i: int, at: Sequence[int]) -> list[float]:
    """Return the weights of v at the knots `at` for the integral over tau from knot i to knot i + 1."""
    step = k.tau[i + 1] - k.tau[i]
    nodes = [(k.tau[j] - k.tau[i]) / step for j in at]
    return [step * w for w in interpolatory(nodes, moments_flat(len(nodes)))]


def _correct_flow(k: Knots, i: int, order: int) -> tuple[float, tuple[float, ...]]:
    weights = _flat(k, i - 1, range(i, i - 1 - min(i, order), -1))
    return k.total[i] / k.total[i - 1], tuple(k.total[i] * w for w in weights)


def adams_log_snr(k: Knots, *, order: int, correct: int = 0) -> list[Row]:
    """Return the plan of the exponential Adams-Bashforth of `order` on x0, in log-SNR; `correct` as in `adams_flow`.

    Knots at infinite log-SNR take no part in a polynomial: from t = 1 with alpha = 0, and onto t = 0, the step is of
    first order.
    """
    rows = []
    for i in range(len(k.t) - 1):
        carry = k.sigma[i + 1] / k.sigma[i]
        num = 1 if math.isinf(k.lam[i + 1]) or math.isinf(k.lam[i]) else order
        at = [j for j in range(i, max(-1, i - num), -1) if j == i or math.isfinite(k.lam[j])]
        correction = _correct_log_snr(k, i, order) if 0 < i <= correct else None
        rows.append(Row(k.t[i], k.t[i + 1], carry, tuple(_exponential(k, i, at)), correction=correction))
    return rows


def _exponential(k: Knots, i: int, at: Sequence[int]) -> list[float]:
    """Return the weights of x0 at the knots `at` for sigma_s·integral of x0·e^lam dlam from knot i to knot i + 1."""
    if len(at) == 1:
        return [k.alpha[i + 1] - k.alpha[i] * k.sigma[i + 1] / k.sigma[i]]
    h = k.lam[i + 1] - k.lam[i]
    nodes = [(k.lam[j] - k.lam[i]) / h for j in at]
    return [k.alpha[i + 1] * w for w in interpolatory(nodes, moments_exponential(len(nodes), h))]


def _correct_log_snr(k: Knots, i: int, order: int) -> tuple[float, tuple[float, ...]]:
    carry = k.sigma[i] / k.sigma[i - 1]
    if math.isinf(k.lam[i - 1]):  # from alpha = 0: the trapezium in alpha/sigma itself, also of second order
        return carry, (k.alpha[i] / 2, k.alpha[i] / 2)
    at = [j for j in range(i, max(-1, i - 1 - order), -1) if math.isfinite(k.lam[j])]
    return carry, tuple(_exponential(k, i - 1, at))


def midpoint_log_snr(k: Knots, *, stochastic: bool = False) -> list[Row]:
    """Return the plan of DPM-Solver++(2M): x0 extrapolated to the step's middle in log-SNR.

    x_s = (sigma_s/sigma_t)·x_t + alpha_s·(1 - e^-h)·D with D = x0 + (x0 - x0_before)/(2r);
    r is the step before over this one. Source: Lu et al. 2022, Algorithm 2. `stochastic` is its SDE
    form: the carry shrinks by another e^-h, the gain becomes 1 - e^-2h, and sigma_s·sqrt(1 - e^-2h) of noise is added.
    """
    rows = []
    for i in range(len(k.t) - 1):
        shrink = k.ratio(i, i + 1)  # e^-h
        if stochastic:
            carry, gain = k.sigma[i + 1] / k.sigma[i] * shrink, k.alpha[i + 1] * (1 - shrink**2)
        else:
            carry, gain = k.sigma[i + 1] / k.sigma[i], k.alpha[i + 1] * (1 - shrink)
        weights: tuple[float, ...] = (gain,)
        if i > 0 and all(map(math.isfinite, k.lam[i - 1 : i + 2])):
            half = (k.lam[i + 1] - k.lam[i]) / (k.lam[i] - k.lam[i - 1]) / 2
            weights = (gain * (1 + half), -gain * half)
        noise = k.sigma[i + 1] * math.sqrt(1 - shrink**2) if stochastic else 0.0
        rows.append(Row(k.t[i], k.t[i + 1], carry, weights, noise=noise))
    return rows


def posterior(k: Knots, *, eta: float) -> list[Row]:
    """Return the plan of DDIM: x_s = alpha_s·x0 + sqrt(sigma_s² - c²)·eps + c·z, c = eta times the posterior's spread.

    The spread of q(x_s | x_t, x0) is sigma_s·sqrt(1 - e^-2h), e^-h = (alpha_t/sigma_t)/(alpha_s/sigma_s): eta = 1 is
    DDPM's ancestral step between any two times of any process. Source: Song et al. 2020 (DDIM), Eq. 16; Ho et al. 2020,
    Eq. 7.
    """
    rows = []
    for i, (a, s) in enumerate(pairwise(k.alpha)):
        c = eta * k.sigma[i + 1] * math.sqrt(1 - k.ratio(i, i + 1) ** 2)
        carry = math.sqrt(max(k.sigma[i + 1] ** 2 - c**2, 0.0)) / k.sigma[i]
        rows.append(Row(k.t[i], k.t[i + 1], carry, (s - a * carry,), noise=c))
    return rows


def diffused(k: Knots, *, strength: float, offset: float, corrected: bool) -> list[Row]:
    """Return the plan of Euler-Maruyama on the flow: z <- z - v·d + g²/2·score·d + g·sqrt(d)·z', d the step in tau.

    g(tau) = strength·tau·(1 - tau)/(1 - tau + offset) and score = -eps/tau; the last step has neither noise nor score.
    `corrected=False` leaves the score out. Source: Song et al. 2021, Eq. 6, on the flow.
    """
    rows = []
    for i in range(len(k.t) - 1):
        tau, d = k.tau[i], k.tau[i] - k.tau[i + 1]
        g = strength * tau * (1 - tau) / (1 - tau + offset) if i + 2 < len(k.t) else 0.0
        push = g * g / 2 * d / tau if corrected else 0.0  # the weight of -eps; eps = (z - (1 - tau)·x0)/tau
        keep, gain = 1 - d / tau - push / tau, d / tau + push * (1 - tau) / tau
        n = k.total[i + 1]
        rows.append(Row(k.t[i], k.t[i + 1], keep * n / k.total[i], (gain * n,), noise=n * g * math.sqrt(d)))
    return rows
