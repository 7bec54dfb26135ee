"""From pure noise to a mixture of Gaussians: where the samples land, and that a fitted grid lands nearer."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from closed_forms import ALL, last, mixture
from torch import Tensor

from limner.errors import ConfigError, NumericalError
from limner.fitting import CANDIDATES, fit_grid
from limner.process.schedules import RectifiedFlow
from limner.process.times import make_grid
from limner.samplers import SAMPLERS, start

ANGLES = torch.arange(8, dtype=torch.float64) * math.pi / 4
RING = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
WIDTH = 0.1
FLOW = RectifiedFlow()
each = pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())


def normal(num: int, seed: int) -> Tensor:
    return torch.randn(num, 2, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@each
@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_becomes_the_mixture(name: str, process: object) -> None:
    denoise, generator = mixture(process, RING, WIDTH), torch.Generator().manual_seed(1)  # type: ignore[arg-type]
    eps = normal(800, 0)
    times = make_grid("karras", process, 40)  # type: ignore[arg-type]
    x = last(
        SAMPLERS[name](
            denoise,
            start(process, None, eps, float(times[0])),  # type: ignore[arg-type]
            times,
            process,  # type: ignore[arg-type]
            noise=lambda: torch.randn(eps.shape, generator=generator, dtype=eps.dtype),
        )
    ).flatten(1)
    distance = torch.cdist(x, RING)
    share = torch.bincount(distance.argmin(1), minlength=8) / len(x)
    assert (share - 1 / 8).abs().max() < 0.05  # four standard errors of 800 draws
    spread = distance.min(1).values.square().mean().div(2).sqrt().item()
    assert abs(spread - WIDTH) < 0.02


@each
def test_every_sampler_is_finite_from_pure_noise_in_one_and_two_steps(process: object) -> None:
    denoise, eps = mixture(process, RING, WIDTH), normal(4, 0)  # type: ignore[arg-type]
    for sampler in SAMPLERS.values():
        for num_steps in (1, 2, 3):
            for dtype in (torch.float32, torch.float64):
                x = eps.to(dtype)
                steps = list(sampler(denoise, x, make_grid("uniform", process, num_steps), process, noise=lambda x=x: x))  # type: ignore[arg-type,misc]
                assert len(steps) == num_steps
                assert steps[-1].t == 0
                assert steps[-1].x.dtype == dtype
                assert torch.isfinite(steps[-1].x).all()


@functools.cache
def fitted(sampler: str, num_steps: int, coefficients: bool) -> object:
    return fit_grid(mixture(FLOW, RING, WIDTH), FLOW, normal(256, 5), num_steps, sampler=sampler, learn_coefficients=coefficients)


@pytest.mark.parametrize(("sampler", "coefficients"), [("ab2", False), ("ab2", True), ("abm", False), ("unipc", False)])
@pytest.mark.parametrize("num_steps", [4, 6])
def test_a_fitted_grid_beats_every_fixed_one_on_noises_it_has_not_seen(sampler: str, coefficients: bool, num_steps: int) -> None:
    denoise, eps = mixture(FLOW, RING, WIDTH), normal(400, 77)
    truth = last(SAMPLERS["ab3"](denoise, eps, make_grid("uniform", FLOW, 400), FLOW))
    fit = fitted(sampler, num_steps, coefficients)
    own = last(SAMPLERS[sampler](denoise, eps, make_grid(fit, FLOW, num_steps), FLOW, **fit.options))  # type: ignore[attr-defined,arg-type]
    for grid in CANDIDATES:
        times = make_grid(grid, FLOW, num_steps)
        fixed = last(SAMPLERS[sampler](denoise, start(FLOW, None, eps, float(times[0])), times, FLOW))
        assert rms(own, truth) < 0.9 * rms(fixed, truth), grid


def test_learned_coefficients_beat_adams_own() -> None:
    assert fitted("ab2", 6, True).error < 0.5 * fitted("ab2", 6, False).error  # type: ignore[attr-defined]


def test_a_fit_is_deterministic() -> None:
    again = fit_grid(mixture(FLOW, RING, WIDTH), FLOW, normal(256, 5), 4, sampler="ab2")
    assert again == fitted("ab2", 4, False)


def test_a_fit_starts_where_the_model_does_and_reports_its_gain() -> None:
    process = ALL["cosine"]
    fit = fit_grid(mixture(process, RING, WIDTH), process, normal(32, 5), 5, t_max=0.99)
    assert fit.times[0] == 0.99
    assert fit.times[-1] == 0
    assert fit.num_steps == 5
    assert fit.error is not None and fit.baseline is not None and fit.error < fit.baseline


def test_coefficients_of_a_fit_sum_to_one() -> None:
    for row in fitted("ab2", 6, True).coefficients:  # type: ignore[attr-defined]
        assert abs(sum(row) - 1) < 1e-12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "ddpm"}, "stochastic"),
        ({"sampler": "heun", "learn_coefficients": True}, "ab2 and ab3"),
        ({"sampler": "eulr"}, "Did you mean 'euler'"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_in_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_grid(mixture(FLOW, RING, WIDTH), FLOW, normal(4, 0), 4, **options)  # type: ignore[arg-type]


def test_a_model_that_answers_nonsense_is_not_fitted_to() -> None:
    with pytest.raises(NumericalError, match="not finite"):
        fit_grid(lambda x, t: x * float("nan"), FLOW, normal(4, 0), 4)
