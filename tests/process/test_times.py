"""Draws of training times and grids of sampling times."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import ALL

from limner.errors import ConfigError
from limner.process.schedules import RectifiedFlow
from limner.process.times import GRIDS, TIMES, FittedGrid, Times, make_grid, shift

FLOW = RectifiedFlow()
U = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000


def test_uniform_times_are_the_uniform_numbers() -> None:
    assert (TIMES.parse("uniform").draw(U) - U).abs().max() == 0  # type: ignore[attr-defined]


def test_logit_normal_times_have_a_normal_logit() -> None:
    t = TIMES.parse({"kind": "logit-normal", "mean": -0.5, "scale": 0.8}).draw(U)  # type: ignore[attr-defined]
    logit = torch.logit(t)
    assert abs(logit.mean().item() + 0.5) < 1e-3
    assert abs(logit.std().item() - 0.8) < 2e-3


def test_two_phase_times_change_when_their_share_of_the_budget_is_used() -> None:
    times: Times = TIMES.parse({"kind": "two-phase", "switch": 0.7})  # type: ignore[assignment]
    early: Times = TIMES.parse("logit-normal")  # type: ignore[assignment]
    assert torch.equal(times.draw(U, budget=0.69), early.draw(U))
    assert torch.equal(times.draw(U, budget=0.7), U)


def test_shifted_times_follow_the_size_of_the_image() -> None:
    small, large = (TIMES.parse({"kind": "shifted", "dimension": d}) for d in (784, 4 * 4096))
    assert torch.equal(small.draw(U), U)  # type: ignore[attr-defined]
    assert (large.draw(U) - 2 * U / (1 + U)).abs().max() < 1e-15  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", TIMES.members)
@settings(max_examples=30, deadline=None)
@given(u=st.floats(0, 1, exclude_max=True), low=st.floats(0, 0.4), high=st.floats(0.5, 1), budget=st.floats(0, 1))
def test_times_stay_inside_their_bounds(kind: str, u: float, low: float, high: float, budget: float) -> None:
    times: Times = TIMES.parse({"kind": kind, "t_min": low, "t_max": high})  # type: ignore[assignment]
    t = times.draw(torch.tensor([u], dtype=torch.float64), budget=budget).item()
    assert low <= t <= high


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"t_min.*below t_max"):
        TIMES.parse({"kind": "uniform", "t_min": 0.9, "t_max": 0.5})


def test_a_shift_can_be_undone() -> None:
    assert (shift(shift(U, 3.0), 1 / 3) - U).abs().max() < 1e-15


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("process", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
@pytest.mark.parametrize("t_max", [1.0, 0.6])
def test_a_grid_falls_from_its_start_to_0(name: str, process: object, num_steps: int, t_max: float) -> None:
    times = make_grid(name, process, num_steps, t_max=t_max)  # type: ignore[arg-type]
    assert times.dtype == torch.float64
    assert len(times) == num_steps + 1
    assert (times.diff() < 0).all()
    assert times[-1] == 0
    assert 0.9 * t_max < times[0] <= t_max  # karras begins at a ratio of at most 80, a little below 1


def test_the_karras_grid_is_even_in_the_seventh_root_of_the_ratio() -> None:
    times = make_grid("karras", FLOW, 10)[:-1]
    root = (FLOW.sigma(times) / FLOW.alpha(times)) ** (1 / 7)
    assert root.diff().diff().abs().max() < 1e-9
    assert abs((root[0] ** 7).item() - 80) < 1e-6
    assert abs((root[-1] ** 7).item() - 0.002) < 1e-9


def test_the_trailing_grid_is_the_published_one() -> None:
    # Lin et al. 2024: 1000 steps, 10 of them: 999, 899, ..., counted from 0.
    expected = torch.arange(1000, 0, -100, dtype=torch.float64) / 1000
    assert torch.equal(make_grid("trailing", FLOW, 10)[:-1], expected)


def test_a_grid_takes_its_options_from_a_mapping() -> None:
    assert torch.equal(make_grid({"kind": "shifted", "a": 0.5}, FLOW, 6), make_grid("shifted", FLOW, 6, a=0.5))


def test_a_grid_can_be_given_by_its_times() -> None:
    assert make_grid([1, 0.4, 0], FLOW, 2).tolist() == [1, 0.4, 0]
    assert make_grid([1, 0.4, 0], FLOW, 2, t_max=0.5).tolist() == [0.5, 0.2, 0]


def test_a_fitted_grid_is_saved_as_json_and_read_back() -> None:
    fitted = FittedGrid(sampler="ab2", times=(1, 0.5, 0), coefficients=((1,), (1.5, -0.5)), error=0.1)
    again = FittedGrid.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    assert torch.equal(make_grid(fitted.model_dump(), FLOW, 2), make_grid(fitted, FLOW, 2))


@pytest.mark.parametrize(
    ("grid", "num_steps", "words"),
    [
        ("unifrom", 4, "Did you mean 'uniform'"),
        ({"kind": "shifted", "b": 2}, 4, "no option 'b'"),
        ({"kind": "shifted", "a": 0}, 4, "a must be above 0"),
        ("trailing", 3000, "cannot be divided"),
        ("uniform", 0, "steps"),
        ([1, 0.5, 0], 4, "are for 2 steps"),
        ([1, 0.5], 1, "exactly 0"),
        ([1, 1, 0], 2, "falling"),
        ([float("nan"), 0.5, 0], 2, "falling"),
        ([1.2, 0], 1, "at most 1"),
        ({"kind": "fitted", "times": [1, 0]}, 1, "sampler"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_words(grid: object, num_steps: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_grid(grid, FLOW, num_steps)  # type: ignore[arg-type]
