"""Order of convergence of every deterministic solver on every process, against the exact solution for Gaussian data."""

from __future__ import annotations

import pytest
import torch
from closed_forms import ALL, gaussian, gaussian_flow, last, measured_order

from limner.process import Process
from limner.process.schedules import Cosine, RectifiedFlow
from limner.process.times import make_grid
from limner.samplers import SAMPLERS, start

X = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(7, 1, 1, 1)
# Seven widths of the data at once: the signed error of one may vanish at some step count, that of all never does.
SPREADS = torch.linspace(0.25, 1.6, 7, dtype=torch.float64)
DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if not sampler.stochastic]
each = pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())


def error(name: str, process: Process, num_steps: int, high: float, low: float, **options: object) -> float:
    times = torch.linspace(high, low, num_steps + 1, dtype=torch.float64)
    found = last(SAMPLERS[name](gaussian(process, 0.7, SPREADS), X, times, process, **options))
    return (found - gaussian_flow(process, X, high, low, 0.7, SPREADS)).abs().max().item()


@each
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_solver_converges_at_its_order_inside_the_process(name: str, process: Process) -> None:
    order = measured_order(lambda n: error(name, process, n, 0.9, 0.1), (40, 80, 160))
    assert abs(order - SAMPLERS[name].order) < 0.2


@each
@pytest.mark.parametrize("name", ["abm", "unipc"])
@pytest.mark.parametrize(("order", "expected"), [(1, 2), (3, 3)])
def test_predictor_and_corrector_reach_one_order_more_up_to_third(name: str, process: Process, order: int, expected: int) -> None:
    found = measured_order(lambda n: error(name, process, n, 0.9, 0.1, order=order), (40, 80, 160))
    assert found > expected - 0.2


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_solver_converges_from_pure_noise_to_data(name: str) -> None:
    order = measured_order(lambda n: error(name, RectifiedFlow(), n, 1.0, 0.0), (80, 160, 320))
    # In log-SNR both ends are infinite and the steps there are of first order: second order is what is left.
    expected = SAMPLERS[name].order if not name.startswith(("dpmpp", "unipc")) else 1.7
    assert order > expected - 0.1


@each
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_single_datum_is_met_exactly_in_one_step_by_any_solver(name: str, process: Process) -> None:
    times = make_grid("uniform", process, 3)
    x = start(process, torch.full_like(X, 0.7), X, 1.0)
    steps = list(SAMPLERS[name](gaussian(process, 0.7, 0.0), x, times, process))
    for step in steps:  # every state lies on the straight line between the datum and the noise
        on_line = start(process, torch.full_like(X, 0.7), X, step.t)
        assert (step.x - on_line).abs().max() < 1e-12


@each
def test_euler_and_ddim_are_one_sampler(process: Process) -> None:
    times = make_grid("uniform", process, 7)
    both = [SAMPLERS[name](gaussian(process), X, times, process) for name in ("euler", "ddim")]
    for one, other in zip(*both, strict=True):
        assert (one.x - other.x).abs().max() < 1e-12


def test_euler_under_the_rectified_flow_subtracts_the_velocity() -> None:
    process = RectifiedFlow()
    times = make_grid("uniform", process, 5)
    x = X
    for t, step in zip(times, SAMPLERS["euler"](gaussian(process), X, times, process), strict=False):
        v = (x - gaussian(process)(x, t.expand(7))) / t
        x = x - v / 5
        assert (step.x - x).abs().max() < 1e-12


def test_ab2_on_even_steps_has_the_coefficients_three_halves_and_minus_a_half() -> None:
    process = RectifiedFlow()
    times = make_grid("uniform", process, 6)
    x, before = X, None
    for t, step in zip(times, SAMPLERS["ab2"](gaussian(process), X, times, process), strict=False):
        v = (x - gaussian(process)(x, t.expand(7))) / t
        x = x - (v if before is None else 1.5 * v - 0.5 * before) / 6
        before = v
        assert (step.x - x).abs().max() < 1e-12


def test_abm_on_even_steps_is_ab3() -> None:
    process = RectifiedFlow()
    times = make_grid("uniform", process, 8)
    x3, xm = (last(SAMPLERS[name](gaussian(process), X, times, process)) for name in ("ab3", "abm"))
    assert (x3 - xm).abs().max() < 1e-12


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_time_axis_of_a_process_does_not_matter(name: str) -> None:
    """The same alpha and sigma at other times t give the same samples."""

    class Slowed(Cosine):
        def alpha(self, t: torch.Tensor) -> torch.Tensor:
            return super().alpha(t**2)

        def sigma(self, t: torch.Tensor) -> torch.Tensor:
            return super().sigma(t**2)

    times = make_grid("uniform", Cosine(), 6)
    one = last(SAMPLERS[name](gaussian(Cosine()), X, times, Cosine()))
    other = last(SAMPLERS[name](gaussian(Slowed()), X, times.sqrt(), Slowed()))
    assert (one - other).abs().max() < 1e-7
