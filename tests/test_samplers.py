"""What samplers promise besides their order: counts, batches, options, refusals; and where sampling starts."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor

from limner.config import own_code
from limner.errors import ConfigError
from limner.process.schedules import Cosine, LinearBeta, RectifiedFlow, expand
from limner.process.times import FittedGrid, make_grid
from limner.samplers import SAMPLERS, get_sampler, inpaint, slerp, start
from limner.samplers_plan import adams_flow, interpolatory, knots, moments_exponential

FLOW = RectifiedFlow()
each = pytest.mark.parametrize("name", SAMPLERS)


def denoise(x_t: Tensor, t: Tensor) -> Tensor:
    """A made-up denoiser, smooth and not linear."""
    return torch.tanh(x_t) * expand(1 - 0.5 * t, x_t).to(x_t.dtype)


def seeded(seeds: list[int], dtype: torch.dtype = torch.float64):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda: torch.stack([torch.randn(1, 4, 4, generator=g, dtype=dtype) for g in generators])


def sample(name: str, seeds: list[int], dtype: torch.dtype = torch.float64, num_steps: int = 5) -> Tensor:
    noise = seeded(seeds, dtype)
    times = make_grid("uniform", Cosine(), num_steps)
    *_, last = SAMPLERS[name](denoise, noise(), times, Cosine(), noise=noise)
    return last.x


@each
@pytest.mark.parametrize("num_steps", [1, 2, 6])
def test_the_network_is_asked_as_often_as_the_table_says(name: str, num_steps: int) -> None:
    calls: list[int] = []

    def counted(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(len(t))
        assert x_t.shape[0] == len(t)
        return denoise(x_t, t)

    x = torch.ones(2, 1, 4, 4)
    steps = list(SAMPLERS[name](counted, x, make_grid("uniform", FLOW, num_steps), FLOW, noise=lambda: x))
    assert len(calls) == SAMPLERS[name].evaluations(num_steps)
    assert len(steps) == num_steps


@each
@pytest.mark.parametrize("budget", [1, 4, 7, 10])
def test_the_most_steps_for_a_budget_fit_into_it(name: str, budget: int) -> None:
    sampler = SAMPLERS[name]
    num_steps = sampler.steps_for(budget)
    assert sampler.evaluations(num_steps) <= budget < sampler.evaluations(num_steps + 1)


@each
def test_steps_carry_the_times_of_the_grid_and_end_at_0(name: str) -> None:
    times = make_grid("karras", FLOW, 5)
    x = torch.ones(2, 1, 4, 4)
    steps = list(SAMPLERS[name](denoise, x, times, FLOW, noise=lambda: x))
    assert [step.t for step in steps] == times[1:].tolist()
    assert steps[-1].x.shape == steps[-1].x0.shape == x.shape


@each
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    batch = sample(name, [11, 12, 13])
    assert (batch[1:2] - sample(name, [12])).abs().max() < 1e-12


@each
def test_the_start_and_the_steps_already_given_are_not_changed(name: str) -> None:
    x = torch.ones(2, 1, 4, 4)
    kept = []
    for step in SAMPLERS[name](denoise, x, make_grid("uniform", FLOW, 4), FLOW, noise=lambda: x):
        kept.append((step, step.x.clone(), step.x0.clone()))
    assert torch.equal(x, torch.ones(2, 1, 4, 4))
    for step, state, x0 in kept:
        assert torch.equal(step.x, state)
        assert torch.equal(step.x0, x0)


@each
def test_single_precision_is_near_double_precision(name: str) -> None:
    seeds = [3, 4]
    exact = seeded(seeds, torch.float32)
    noises = [exact().double() for _ in range(9)]

    def run(dtype: torch.dtype) -> Tensor:
        rest = iter(noises[1:])
        times = make_grid("uniform", LinearBeta(), 6)
        steps = SAMPLERS[name](denoise, noises[0].to(dtype), times, LinearBeta(), noise=lambda: next(rest).to(dtype))
        *_, last = steps
        return last.x.double()

    assert (run(torch.float32) - run(torch.float64)).abs().max() < 2e-4


@each
def test_every_sampler_has_the_contract_of_the_table(name: str) -> None:
    sampler = SAMPLERS[name]
    names = list(inspect.signature(sampler.function).parameters)
    assert names[:5] == ["denoise", "x", "times", "process", "noise"]
    assert sampler.options == tuple(names[5:])
    assert sampler.function.__doc__


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.stochastic])
def test_a_stochastic_sampler_without_noise_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match="stochastic: it needs `noise`"):
        list(SAMPLERS[name](denoise, torch.ones(1, 1, 4, 4), make_grid("uniform", FLOW, 4), FLOW))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ddim", {"eat": 0.5}, "Did you mean 'eta'"),
        ("heun", {"eta": 0.5}, "It has none"),
        ("ddim", {"eta": 1.5}, r"eta must lie in \[0, 1\]"),
        ("abm", {"order": 4}, "order must be 1, 2 or 3"),
        ("unipc", {"order": 0}, "order must be 1, 2 or 3"),
        ("euler-stochastic", {"strength": -1.0}, "strength"),
        ("edm-churn", {"churn": -1.0}, "churn"),
        ("ab2", {"coefficients": [[1.0]]}, "4 rows"),
        ("ab2", {"coefficients": [[1.0], [1, 0], [1, 0], [1, 0, 0]]}, "4 rows of 1 to 2"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_words(name: str, options: dict[str, object], words: str) -> None:
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(ConfigError, match=words):
        list(SAMPLERS[name](denoise, x, make_grid("uniform", FLOW, 4), FLOW, noise=lambda: x, **options))


@each
@pytest.mark.parametrize("times", [[0.0, 0.5, 1.0], [1.0, 1.0, 0.0], [1.5, 0.0], [1.0], [float("nan"), 0.0], [0.5, -0.1]])
def test_times_that_are_no_falling_grid_are_refused(name: str, times: list[float]) -> None:
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(ConfigError, match="times"):
        SAMPLERS[name](denoise, x, torch.tensor(times, dtype=torch.float64), FLOW, noise=lambda: x)


def test_an_unknown_sampler_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dpmpp-2m'"):
        get_sampler("dpm-2m")


def test_ones_own_sampler_is_read_from_a_file_when_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from limner.samplers import euler\n"
        "def slow(denoise, x, times, process, *, noise=None):\n"
        "    return euler(denoise, x, times, process)\n"
    )
    with pytest.raises(ConfigError, match="names code in a file"):
        get_sampler(f"{path}:slow")
    with own_code([f"{path}:slow"]):
        own = get_sampler(f"{path}:slow")
    times, x = make_grid("uniform", FLOW, 3), torch.ones(1, 1, 4, 4)
    *_, one = own(denoise, x, times, FLOW)
    *_, other = SAMPLERS["euler"](denoise, x, times, FLOW)
    assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("name", ["ab2", "ab3"])
def test_adams_own_coefficients_given_from_outside_change_nothing(name: str) -> None:
    times = make_grid("karras", Cosine(), 5)
    order = int(name[-1])
    k = knots(Cosine(), times)
    rows = [
        [w / k.total[i + 1] / (k.tau[i + 1] - k.tau[i]) for w in row.weights] for i, row in enumerate(adams_flow(k, order=order))
    ]
    grid = FittedGrid(sampler=name, times=tuple(times.tolist()), coefficients=tuple(map(tuple, rows)))
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64) * 0.3
    *_, given = SAMPLERS[name](denoise, x, make_grid(grid, Cosine(), 5), Cosine(), **grid.options)
    if name == "ab2":
        *_, own = SAMPLERS[name](denoise, x, times, Cosine())
        assert (given.x - own.x).abs().max() < 1e-12
    assert torch.isfinite(given.x).all()
    assert all(abs(sum(row) - 1) < 1e-12 for row in rows)


@pytest.mark.parametrize("h", [1e-6, 1e-3, 0.3, 0.999, 1.001, 5.0, 40.0])
def test_the_exponential_moments_are_the_integrals(h: float) -> None:
    nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in _gauss(200))
    for k, moment in enumerate(moments_exponential(4, h)):
        integral = (weights * h * torch.exp((nodes - 1) * h) * nodes**k).sum().item()
        assert moment == pytest.approx(integral, rel=1e-11)


def _gauss(num: int) -> tuple[list[float], list[float]]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(num)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def test_interpolatory_weights_integrate_every_polynomial_of_their_degree() -> None:
    nodes = [0.0, -0.7, -1.9, 1.0]
    weights = interpolatory(nodes, [1 / (k + 1) for k in range(4)])
    for k in range(4):
        assert sum(w * u**k for w, u in zip(weights, nodes, strict=True)) == pytest.approx(1 / (k + 1), abs=1e-13)


# ---------------------------------------------------------------------------------------------------- where to start


def test_sampling_starts_at_pure_noise_or_at_a_noised_image() -> None:
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start(FLOW, None, eps, 1.0), eps)
    assert (start(FLOW, x0, eps, 0.25) - (0.75 * x0 + 0.25 * eps)).abs().max() < 1e-6
    assert start(Cosine(), x0, eps, 0.5).dtype == eps.dtype


@pytest.mark.parametrize("name", ["ddim", "ab2", "abm", "heun", "dpmpp-2m"])
def test_image_to_image_stays_near_its_image_for_small_times(name: str) -> None:
    known = torch.tanh(torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)))
    eps = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(2))

    def knows_two(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.where((x_t - known).square().mean() < 0.2, known, -known)

    for strength, expected in ((0.2, known), (1.0, -known)):
        times = make_grid("uniform", FLOW, 6, t_max=strength)
        *_, last = SAMPLERS[name](knows_two, start(FLOW, known, eps, strength), times, FLOW)
        assert (last.x - expected).abs().max() < 1e-5


@each
def test_inpainting_keeps_the_known_part_exactly_and_fills_the_rest(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.rand(2, 1, 4, 4, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    x = torch.randn(2, 1, 4, 4, generator=generator)
    seen: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((x_t - (1 - t[0]) * known - t[0] * x)[..., :2].abs().max())
        return denoise(x_t, t)

    steps = SAMPLERS[name](inpaint(watched, known, mask), x, make_grid("uniform", FLOW, 5), FLOW, noise=lambda: x)
    *_, last = steps
    assert (last.x - known)[..., :2].abs().max() < 1e-5
    assert (last.x - known)[..., 2:].abs().max() > 0.1
    if not SAMPLERS[name].stochastic:  # the network sees the known part at the noise of its time
        assert max(seen) < 1e-5


def test_noise_between_two_noises_keeps_its_length() -> None:
    a, b = torch.randn(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for weight in (0.0, 0.25, 0.5, 1.0):
        ratio = slerp(a, b, weight).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)
        assert (ratio - 1).abs().max() < 0.03
    assert (slerp(a, b, 0.0) - a).abs().max() < 1e-6
    assert (slerp(a, b, 1.0) - b).abs().max() < 1e-6


def test_slerp_goes_along_the_great_circle_at_an_even_pace() -> None:
    a, b = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    expected = torch.tensor([[[[3**0.5 / 2, 0.5]]]])
    assert (slerp(a, b, 1 / 3) - expected).abs().max() < 1e-6


def test_slerp_between_equal_or_opposite_noises_is_a_line() -> None:
    a = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert (slerp(a, a, 0.3) - a).abs().max() < 1e-6
    assert (slerp(a, -a, 0.25) - a / 2).abs().max() < 1e-3
