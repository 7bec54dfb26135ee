"""Power-function averages against their closed forms, and widths rebuilt afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limner.training.ema import PowerEMA, gamma_of, inner_product, mix, posthoc_weights


def closed_form(weights: np.ndarray, gamma: float) -> np.ndarray:
    """The integral of the profile (gamma + 1)·t^gamma/n^(gamma + 1) over each step, times the weights after that step."""
    n = len(weights)
    t = np.arange(n + 1) / n
    share = np.diff(t ** (gamma + 1))
    return share @ weights


def walk(steps: int, seed: int = 0) -> np.ndarray:
    """Return weights [steps, 32] on their way: a drift and a random walk."""
    rng = np.random.default_rng(seed)
    return np.linspace(0, 2, steps)[:, None] + np.cumsum(rng.normal(size=(steps, 32)) / np.sqrt(steps), axis=0)


def averaged(path: np.ndarray, sigma_rel: float, keep: tuple[int, ...] = ()) -> tuple[np.ndarray, dict[int, torch.Tensor]]:
    """Return what PowerEMA makes of a path, and its state after the steps in `keep`."""
    ema = PowerEMA({"w": torch.zeros(path.shape[1], dtype=torch.float64)}, sigma_rel)
    kept = {}
    for step, row in enumerate(path, 1):
        ema.update([torch.from_numpy(row)], step)
        if step in keep:
            kept[step] = ema.state_dict()["w"].clone()
    return ema.state_dict()["w"].numpy(), kept


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.10, 0.2, 0.28])
def test_gamma_solves_the_formula_of_the_relative_width(sigma_rel: float) -> None:
    gamma = gamma_of(sigma_rel)
    assert abs(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) - sigma_rel) < 1e-9


def test_gamma_has_the_published_values() -> None:
    """Karras et al. 2024, Section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert abs(gamma_of(0.05) - 16.97) < 0.005
    assert abs(gamma_of(0.10) - 6.94) < 0.005


@pytest.mark.parametrize("sigma_rel", [0, -1, 0.29, 1])
def test_a_width_without_a_profile_is_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.288"):
        gamma_of(sigma_rel)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.25])
def test_the_running_average_is_the_closed_form(steps: int, sigma_rel: float) -> None:
    path = walk(steps)
    found, _ = averaged(path, sigma_rel)
    assert np.abs(found - closed_form(path, gamma_of(sigma_rel))).max() < 1e-12


def test_the_first_step_forgets_the_initial_weights() -> None:
    ema = PowerEMA({"w": torch.full((3,), 1e6)}, 0.1)
    ema.update([torch.ones(3)], 1)
    assert ema.state_dict()["w"].tolist() == [1, 1, 1]


def test_the_relative_spread_of_the_profile_is_sigma_rel() -> None:
    """Averaging t itself and t² gives the profile's standard deviation relative to the run's length."""
    n = 20_000
    t = (np.arange(n) + 0.5)[:, None] / n
    for sigma_rel in (0.05, 0.10):
        gamma = gamma_of(sigma_rel)
        spread = np.sqrt(closed_form(t**2, gamma) - closed_form(t, gamma) ** 2)
        assert abs(spread[0] - sigma_rel) < 1e-4


def test_the_inner_product_of_profiles_is_the_integral() -> None:
    def profile(t: np.ndarray, end: float, gamma: float) -> np.ndarray:
        return np.where(t <= end, (gamma + 1) * np.minimum(t / end, 1) ** gamma / end, 0)

    t = (np.arange(400_000) + 0.5) / 400_000 * 50
    for a, b in (((50, 6.94), (50, 16.97)), ((30, 16.97), (50, 6.94)), ((20, 2.0), (35, 2.0))):
        integral = (profile(t, *a) * profile(t, *b)).sum() * 50 / 400_000
        assert abs(inner_product(*a, *b) / integral - 1) < 1e-4


@pytest.mark.parametrize(("wanted", "tolerance"), [(0.05, 1e-8), (0.10, 1e-8), (0.07, 0.02), (0.15, 0.05), (0.20, 0.10)])
def test_other_widths_are_rebuilt_from_snapshots(wanted: float, tolerance: float) -> None:
    """Error of the rebuilt average, relative to how far that average is from the last weights."""
    path, keep = walk(400), tuple(range(25, 401, 25))
    snapshots, states = [], []
    for sigma_rel in (0.05, 0.10):
        for step, value in averaged(path, sigma_rel, keep)[1].items():
            snapshots.append((step, sigma_rel))
            states.append({"w": value})
    rebuilt = mix(states, posthoc_weights(snapshots, 400, wanted))["w"].numpy()
    truth, _ = averaged(path, wanted)
    error = np.abs(rebuilt - truth).max() / np.abs(path[-1] - truth).max()
    assert error < max(tolerance, 1e-5)  # mix returns float32


def test_state_goes_around() -> None:
    a = PowerEMA({"w": torch.randn(4)}, 0.1)
    a.update([torch.randn(4)], 1)
    a.update([torch.randn(4)], 2)
    b = PowerEMA({"w": torch.zeros(4)}, 0.1)
    b.load_state_dict(a.state_dict())
    weights = [torch.randn(4)]
    a.update(weights, 3)
    b.update(weights, 3)
    assert torch.equal(a.state_dict()["w"], b.state_dict()["w"])


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("wanted", [0.03, 0.05, 0.15, 0.25])
def test_weights_that_never_changed_are_rebuilt_as_they_are(count: int, wanted: float) -> None:
    """However few snapshots there are, their weights sum to one: nothing is shrunk."""
    snapshots = [((k + 1) * 200 // count, width) for k in range(count) for width in (0.05, 0.10)]
    assert abs(posthoc_weights(snapshots, 200, wanted).sum() - 1) < 1e-9
