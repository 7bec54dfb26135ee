"""Stochastic samplers on Gaussian data: the exact mean and variance of what they make, without drawing a single number.

With a linear denoiser every sampler is x -> sum of its noises times constants. A batch of unit noises reads the
constants off, and so gives mean and variance exactly.
"""

from __future__ import annotations

import pytest
import torch
from closed_forms import ALL, MEAN, SPREAD, gaussian, measured_order
from torch import Tensor

from limner.process import Process
from limner.process.times import make_grid
from limner.samplers import SAMPLERS
from limner.types import Step

STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.stochastic]
each = pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())


def moments(
    name: str, process: Process, times: Tensor, *, mean: float = MEAN, spread: float = SPREAD, **options: object
) -> tuple[Tensor, Tensor, list[Step]]:
    """Return mean [N] and variance [N] after each step, when x at times[0] has the exact distribution."""
    calls = iter(range(1, len(times) + 1))
    rows = len(times) + 2  # nothing; the start; one row a noise
    unit = torch.eye(rows, dtype=torch.float64)

    def noise() -> Tensor:
        return unit[next(calls) + 1].reshape(rows, 1, 1, 1)

    alpha, sigma = process.alpha(times[:1]), process.sigma(times[:1])
    first = alpha * mean + (alpha**2 * spread**2 + sigma**2).sqrt() * unit[1]
    steps = list(
        SAMPLERS[name](gaussian(process, mean, spread), first.reshape(rows, 1, 1, 1), times, process, noise=noise, **options)
    )
    states = torch.stack([step.x.flatten() for step in steps])
    return states[:, 0], (states[:, 1:] - states[:, :1]).square().sum(1), steps


@each
@pytest.mark.parametrize("name", ["ddpm", "dpmpp-2m-sde"])
@pytest.mark.parametrize("grid", ["uniform", "karras", "trailing"])
def test_every_marginal_of_a_single_datum_is_exact_on_strided_grids(name: str, grid: str, process: Process) -> None:
    times = make_grid(grid, process, 5)
    mean, variance, _ = moments(name, process, times, spread=0.0)
    assert (mean - process.alpha(times[1:]) * MEAN).abs().max() < 1e-12
    assert (variance - process.sigma(times[1:]) ** 2).abs().max() < 1e-12


@each
@pytest.mark.parametrize("name", STOCHASTIC)
def test_mean_and_variance_become_right_with_many_steps(name: str, process: Process) -> None:
    # A churn that does not shrink with the step count is what Algorithm 2 takes in the limit: gamma = churn/N.
    options = {"noise_scale": 1.0, "churn": 5.0} if name == "edm-churn" else {}
    exact_mean, exact_variance = MEAN, SPREAD**2

    def error(num_steps: int) -> float:
        times = make_grid("karras", process, num_steps)
        mean, variance, _ = moments(name, process, times, **options)
        return abs(mean[-1].item() - exact_mean) + abs(variance[-1].item() - exact_variance)

    assert error(200) < 1.2e-2
    if name != "edm-churn":
        assert measured_order(error, (25, 50, 100)) > 0.6


@each
def test_eta_1_of_ddim_is_ddpm(process: Process) -> None:
    times = make_grid("uniform", process, 6)
    one, other = (moments(name, process, times, **o) for name, o in (("ddpm", {}), ("ddim", {"eta": 1.0})))
    assert (one[0] - other[0]).abs().max() < 1e-12
    assert (one[1] - other[1]).abs().max() < 1e-12


@each
@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_every_marginal_of_a_single_datum_is_exact_for_every_eta(process: Process, eta: float) -> None:
    times = make_grid("uniform", process, 4)
    mean, variance, _ = moments("ddim", process, times, spread=0.0, eta=eta)
    assert (mean - process.alpha(times[1:]) * MEAN).abs().max() < 1e-12
    assert (variance - process.sigma(times[1:]) ** 2).abs().max() < 1e-12


@each
@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_last_step_adds_no_noise(name: str, process: Process) -> None:
    times = make_grid("uniform", process, 4)
    _, _, steps = moments(name, process, times)
    x0 = steps[-1].x0
    assert (steps[-1].x - x0).abs().max() < (1e-12 if name != "edm-churn" else 1e-9)


def test_noise_without_the_push_along_the_score_has_too_much_variance() -> None:
    process = ALL["rectified-flow"]
    times = make_grid("uniform", process, 400)
    _, loose, _ = moments("euler-stochastic", process, times, corrected=False)
    _, right, _ = moments("euler-stochastic", process, times)
    assert abs(right[-1].item() - SPREAD**2) < 4e-3
    assert loose[-1].item() > SPREAD**2 + 0.02


def test_uncorrected_steps_are_the_velocity_and_the_published_noise() -> None:
    process = ALL["rectified-flow"]
    n = 10
    times = make_grid("uniform", process, n)
    x = z = torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(5, 1, 1, 1)
    steps = SAMPLERS["euler-stochastic"](gaussian(process), x, times, process, noise=lambda: z, corrected=False)
    for i, (t, step) in enumerate(zip(times.tolist(), steps, strict=False)):
        v = (x - gaussian(process)(x, torch.full((5,), t, dtype=torch.float64))) / t
        amount = t * (1 - t) / (1 - t + 0.008) if i < n - 1 else 0.0
        x = x - v / n + amount * n**-0.5 * z
        assert (step.x - x).abs().max() < 1e-12


def test_churn_raises_the_noise_by_its_share_and_never_above_the_first_time() -> None:
    process = ALL["rectified-flow"]
    times = make_grid("karras", process, 10)
    seen: list[float] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return gaussian(process)(x, t)

    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    list(SAMPLERS["edm-churn"](denoise, x, times, process, noise=lambda: x, churn=2.0))
    ratio = times / (1 - times)
    firsts = torch.tensor(seen[0::2], dtype=torch.float64)
    raised = firsts / (1 - firsts) / ratio[:-1]
    inside = (ratio[:-1] >= 0.05) & (ratio[:-1] <= 50)
    assert raised[inside].sub(1.2).abs().max() < 1e-6
    assert raised[~inside].sub(1).abs().max() < 1e-12
    assert max(seen) <= times[0]
