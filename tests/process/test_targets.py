"""The four targets as pairs: one solve answers every question, wherever a question has an answer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import ALL

from limner.errors import ConfigError
from limner.process.schedules import Process
from limner.process.targets import X0, Eps, Flow, MinSNR, Target, V

TARGETS: dict[str, Target] = {"x0": X0(), "eps": Eps(), "v": V(), "flow": Flow()}
pairs = pytest.mark.parametrize(
    ("process", "target"),
    [(p, t) for p in ALL.values() for t in TARGETS.values()],
    ids=[f"{p}-{t}" for p in ALL for t in TARGETS],
)
T = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)


def noised(process: Process, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, len(t), 2, 3, 3, generator=generator, dtype=torch.float64)
    return x0, eps, process.add_noise(x0, eps, t)


@pairs
def test_data_and_noise_come_back_from_the_target(process: Process, target: Target) -> None:
    x0, eps, x_t = noised(process, T)
    y = target.of(process, x0, eps, T)
    assert (target.x0(process, x_t, y, T) - x0).abs().max() < 1e-10
    assert (target.eps(process, x_t, y, T) - eps).abs().max() < 1e-10


@pytest.mark.parametrize("target", [X0(), V(), Flow()], ids=["x0", "v", "flow"])
@pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())
def test_data_come_back_at_pure_noise_too(process: Process, target: Target) -> None:
    t = torch.ones(5, dtype=torch.float64)
    x0, eps, x_t = noised(process, t)
    y = target.of(process, x0, eps, t)
    assert (target.x0(process, x_t, y, t) - x0).abs().max() < 1e-10


@pairs
def test_the_data_come_back_exactly_at_time_0(process: Process, target: Target) -> None:
    t = torch.zeros(3, dtype=torch.float64)
    x0, eps, x_t = noised(process, t)
    assert (target.x0(process, x_t, target.of(process, x0, eps, t), t) - x0).abs().max() < 1e-12


@pairs
def test_one_target_converts_into_any_other(process: Process, target: Target) -> None:
    x0, eps, x_t = noised(process, T)
    y = target.of(process, x0, eps, T)
    for other in TARGETS.values():
        there = other.of(process, target.x0(process, x_t, y, T), target.eps(process, x_t, y, T), T)
        assert (there - other.of(process, x0, eps, T)).abs().max() < 1e-10


@pairs
def test_errors_convert_by_their_weight(process: Process, target: Target) -> None:
    x0, eps, x_t = noised(process, T)
    y = target.of(process, x0, eps, T)
    wrong = y + 0.1
    of_x0 = (target.x0(process, x_t, wrong, T) - x0).square().mean((1, 2, 3))
    assert (of_x0 * target.weight_to_x0(process, T) / 0.01 - 1).abs().max() < 1e-9


def test_v_is_the_derivative_on_the_circle() -> None:
    process = ALL["cosine"]
    x0, eps, _ = noised(process, T)
    angle = torch.atan2(process.sigma(T), process.alpha(T))[:, None, None, None]
    h = 1e-5
    slope = (torch.cos(angle + h) - torch.cos(angle - h)) * x0 + (torch.sin(angle + h) - torch.sin(angle - h)) * eps
    assert (V().of(process, x0, eps, T) - slope / (2 * h)).abs().max() < 1e-8


def test_flow_is_the_derivative_of_the_straight_line() -> None:
    process = ALL["rectified-flow"]
    x0, eps, x_t = noised(process, T)
    slope = (process.add_noise(x0, eps, T + 1e-3) - x_t) / 1e-3
    assert (Flow().of(process, x0, eps, T) - slope).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["rectified-flow", "cosine", "tabulated-zero-snr"])
def test_noise_as_target_is_refused_where_no_data_are_left(name: str) -> None:
    with pytest.raises(ConfigError, match=r"eps.*ill-posed.*t = 1"):
        Eps().check(ALL[name])
    Eps().check(ALL[name], t_max=0.995)


@pytest.mark.parametrize("target", [X0(), V(), Flow()], ids=["x0", "v", "flow"])
@pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())
def test_the_other_targets_are_accepted_everywhere(process: Process, target: Target) -> None:
    target.check(process)


def test_noise_as_target_is_accepted_where_some_data_are_left() -> None:
    for name in ("linear-beta", "scaled-linear-beta", "tabulated"):
        Eps().check(ALL[name])


@pytest.mark.parametrize("name", ["cosine", "linear-beta", "scaled-linear-beta", "tabulated"])
@settings(max_examples=20, deadline=None)
@given(gamma=st.floats(0.5, 20))
def test_min_snr_is_the_published_formula_for_each_target(name: str, gamma: float) -> None:
    process, weight = ALL[name], MinSNR(gamma=gamma)
    snr = (process.alpha(T) / process.sigma(T)) ** 2
    capped = snr.clamp_max(gamma)
    for target, expected in ((X0(), capped), (Eps(), capped / snr), (V(), capped / (snr + 1))):
        assert (weight.weight(process, target, T) / expected - 1).abs().max() < 1e-9


def test_min_snr_weighs_the_same_error_on_the_data_the_same_under_every_target() -> None:
    process, weight = ALL["rectified-flow"], MinSNR()
    on_x0 = [weight.weight(process, target, T) * target.weight_to_x0(process, T) for target in TARGETS.values()]
    for other in on_x0[1:]:
        assert (other / on_x0[0] - 1).abs().max() < 1e-9


@pytest.mark.parametrize("target", [X0(), V(), Flow()], ids=["x0", "v", "flow"])
def test_min_snr_is_finite_at_both_ends(target: Target) -> None:
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for process in ALL.values():
        assert torch.isfinite(MinSNR().weight(process, target, t)).all()
