"""Every process: its ends, its monotony, its precision, and the published numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import ConfigError, LimnerError
from limner.process import PROCESSES
from limner.process.schedules import Cosine, LinearBeta, Process, RectifiedFlow, ScaledLinearBeta, Tabulated

ALL: dict[str, Process] = {
    "rectified-flow": RectifiedFlow(),
    "cosine": Cosine(),
    "linear-beta": LinearBeta(),
    "scaled-linear-beta": ScaledLinearBeta(),
    "tabulated": Tabulated(schedule="linear"),
    "tabulated-cosine": Tabulated(schedule="squaredcos_cap_v2"),
    "tabulated-zero-snr": Tabulated(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, zero_terminal_snr=True),
}
each = pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())
preserving = pytest.mark.parametrize("process", list(ALL.values())[1:], ids=list(ALL)[1:])
T = torch.linspace(0, 1, 2001, dtype=torch.float64)


@each
def test_at_time_0_there_is_only_data(process: Process) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert process.alpha(zero).item() == pytest.approx(1, abs=1e-15)
    assert process.sigma(zero).item() == 0


@pytest.mark.parametrize("name", ["rectified-flow", "cosine", "tabulated-zero-snr"])
def test_at_time_1_no_data_are_left(name: str) -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert ALL[name].alpha(one).item() == 0
    assert ALL[name].sigma(one).item() == pytest.approx(1, abs=1e-15)


@each
def test_alpha_falls_and_sigma_rises(process: Process) -> None:
    assert (process.alpha(T).diff() <= 1e-15).all()
    assert (process.sigma(T).diff() >= -1e-15).all()


@preserving
def test_the_variance_is_preserved(process: Process) -> None:
    error = (process.alpha(T) ** 2 + process.sigma(T) ** 2 - 1).abs().max()
    assert error < 1e-14


@each
def test_single_precision_keeps_its_relative_precision_near_the_data(process: Process) -> None:
    t = torch.logspace(-4, 0, 50, dtype=torch.float64).float()
    exact = process.sigma(t.double())
    assert ((process.sigma(t).double() - exact) / exact).abs().max() < 2e-5


def test_cosine_is_the_published_formula() -> None:
    f = torch.cos(math.pi / 2 * (T + 0.008) / 1.008) ** 2
    assert (Cosine().alpha(T) ** 2 - f / f[0]).abs().max() < 1e-14


def test_linear_beta_is_the_published_formula() -> None:
    assert (LinearBeta().alpha(T) ** 2 - torch.exp(-(0.1 * T + 19.9 * T**2 / 2))).abs().max() < 1e-14


def test_scaled_linear_beta_is_the_integral_of_its_rate() -> None:
    a, b = math.sqrt(0.85), math.sqrt(12.0)
    rate = (a + (b - a) * T) ** 2
    integral = torch.cat([T.new_zeros(1), torch.cumulative_trapezoid(rate, T)])
    assert (ScaledLinearBeta().alpha(T) ** 2 - torch.exp(-integral)).abs().max() < 1e-6


def test_a_table_is_met_exactly_at_its_entries_also_in_single_precision() -> None:
    table = Tabulated(schedule="linear")
    alphas = (1 - table.table()).cumprod(0).sqrt()
    n = torch.arange(1000)
    t = (n + 1).double() / 1000
    assert (table.alpha(t) - alphas).abs().max() < 1e-15
    assert (table.alpha(t.float()).double() - alphas).abs().max() < 1e-7


@each
@settings(max_examples=30, deadline=None)
@given(t=st.floats(1e-3, 0.995))
def test_the_time_of_a_log_snr_is_found_again(process: Process, t: float) -> None:
    time = torch.tensor([t], dtype=torch.float64)
    assert (process.time_of_log_snr(process.log_snr(time)) - time).abs().item() < 1e-9


@each
def test_noise_is_added_image_by_image(process: Process) -> None:
    x0, eps = torch.full((3, 1, 2, 2), 2.0), torch.full((3, 1, 2, 2), 3.0)
    t = torch.tensor([0.0, 0.3, 1.0])
    x_t = process.add_noise(x0, eps, t)
    expected = 2 * process.alpha(t) + 3 * process.sigma(t)
    assert (x_t - expected[:, None, None, None]).abs().max() < 1e-6


@each
def test_a_process_is_its_config(process: Process) -> None:
    assert PROCESSES.parse(process.model_dump()) == process


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "tabulated"},
        {"kind": "tabulated", "schedule": "linear", "betas": [0.1, 0.2]},
        {"kind": "tabulated", "betas": [0.1, 1.5]},
        {"kind": "linear-beta", "beta_min": 0},
        {"kind": "cosin"},
    ],
)
def test_a_process_that_cannot_be_is_refused_in_words(bad: dict[str, object]) -> None:
    with pytest.raises((ConfigError, LimnerError), match=r"tabulated|beta|cosin"):
        PROCESSES.parse(bad)
