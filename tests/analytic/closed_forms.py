"""Data whose ideal denoiser and ODE solution are known in closed form, and the orders of convergence read off them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from limner.process import Process
from limner.process.schedules import Cosine, LinearBeta, RectifiedFlow, ScaledLinearBeta, Tabulated, expand
from limner.types import Denoise, Step

ALL: dict[str, Process] = {
    "rectified-flow": RectifiedFlow(),
    "cosine": Cosine(),
    "linear-beta": LinearBeta(),
    "scaled-linear-beta": ScaledLinearBeta(),
    "tabulated": Tabulated(schedule="linear"),
    "tabulated-zero-snr": Tabulated(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, zero_terminal_snr=True),
}
MEAN, SPREAD = 0.7, 0.4


def last(steps: Iterable[Step]) -> Tensor:
    """Return the sample that a sampler ends with."""
    *_, step = steps
    return step.x


def gaussian(process: Process, mean: float = MEAN, spread: float | Tensor = SPREAD) -> Denoise:
    """Return E[x0 | x_t] for x0 ~ N(mean, spread²): mean + alpha·spread²/(alpha²·spread² + sigma²)·(x_t - alpha·mean).

    `spread` may be one number an image.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t.double()), process.sigma(t.double())
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return mean + expand(gain, x_t) * (x_t - expand(alpha, x_t) * mean)

    return denoise


def gaussian_flow(process: Process, x: Tensor, t: float, s: float, mean: float = MEAN, spread: float | Tensor = SPREAD) -> Tensor:
    """Return the exact ODE solution at s from x at t: alpha_s·mean + sqrt(V_s/V_t)·(x - alpha_t·mean).

    V = alpha²·spread² + sigma².
    """
    times = torch.tensor([t, s], dtype=torch.float64)
    alpha, sigma = process.alpha(times), process.sigma(times)
    before, after = (alpha[i] ** 2 * spread**2 + sigma[i] ** 2 for i in (0, 1))
    return alpha[1] * mean + expand((after / before).sqrt(), x) * (x - alpha[0] * mean)


def mixture(process: Process, means: Tensor, spread: float, weights: Tensor | None = None) -> Denoise:
    """Return E[x0 | x_t] for a mixture of N(means[k], spread²) in D dimensions, means [K, D]; x_t [B, D, 1, 1]."""
    logits = torch.zeros(len(means), dtype=means.dtype) if weights is None else weights.log()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t.double())[:, None], process.sigma(t.double())[:, None]
        x = x_t.flatten(1).double()
        variance = alpha**2 * spread**2 + sigma**2
        offset = x[:, None] - alpha[..., None] * means
        chance = torch.softmax(logits - offset.square().sum(-1) / (2 * variance), dim=1)
        each = means + (alpha * spread**2 / variance)[..., None] * offset
        return (chance[..., None] * each).sum(1).reshape(x_t.shape).to(x_t.dtype)

    return denoise


def measured_order(error: Callable[[int], float], steps: tuple[int, int, int]) -> float:
    """Return the slope of log(error) against log(1/steps) between the last two counts, if it falls."""
    errors = [error(n) for n in steps]
    assert errors[0] > errors[1] > errors[2] > 0, errors
    return math.log(errors[1] / errors[2]) / math.log(steps[2] / steps[1])
