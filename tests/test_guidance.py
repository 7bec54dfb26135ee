"""Guidance: the formulas, what is asked of the network and how often, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limner.errors import ConfigError
from limner.guidance import GUIDANCE, Guidance, apg, autoguidance, cfg, cfg_zero, scale_from
from limner.process.schedules import Cosine, LinearBeta, Process, RectifiedFlow, expand
from limner.process.targets import Flow
from limner.types import Conditioning, Denoise

B = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(B, 2, 4, 4, generator=GENERATOR, dtype=torch.float64)
T = torch.full((B,), 0.6, dtype=torch.float64)
PROCESSES = {"flow": RectifiedFlow(), "cosine": Cosine(), "linear": LinearBeta()}


def conditioning(num: int, seed: int, tokens: int = 5) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num, tokens, 8, generator=generator, dtype=torch.float64)
    return Conditioning(values, torch.ones(num, tokens, dtype=torch.bool), values.mean(1))


COND, NULL = conditioning(B, 1), conditioning(1, 2, tokens=2)


class Network:
    """A made-up conditional denoiser that remembers what it was asked."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.batches: list[int] = []
        self.seen: list[Conditioning] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert len(x_t) == len(t) == len(cond)
        self.batches.append(len(x_t))
        self.seen.append(cond)
        return torch.tanh(x_t + self.gain * expand(cond.pooled.sum(1), x_t)) * expand(1 - t / 2, x_t)


def halves() -> tuple[Tensor, Tensor]:
    return Network()(X, T, COND), Network()(X, T, NULL[[0] * B])


def error(guided: Denoise, expected: Tensor) -> float:
    return (guided(X, T) - expected).abs().max().item()


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(-5, 20))
def test_guidance_is_the_line_through_both_answers(scale: float) -> None:
    conditional, null = halves()
    assert error(cfg(Network(), COND, NULL, scale=scale), null + scale * (conditional - null)) < 1e-12


def test_guidance_asks_once_with_a_doubled_batch_whose_conditioning_is_made_once() -> None:
    network = Network()
    guided = cfg(network, COND, NULL, scale=2.0)
    for _ in range(3):
        guided(X, T)
    assert network.batches == [2 * B] * 3
    assert network.seen[0] is network.seen[1] is network.seen[2]
    assert torch.equal(network.seen[0].pooled[:B], COND.pooled)


@pytest.mark.parametrize(("scale", "which"), [(1.0, 0), (0.0, 1)])
def test_scales_1_and_0_ask_for_one_half_only(scale: float, which: int) -> None:
    network = Network()
    assert error(cfg(network, COND, NULL, scale=scale), halves()[which]) == 0
    assert network.batches == [B]


def test_outside_the_interval_only_the_conditional_half_is_asked_for() -> None:
    network = Network()
    guided = cfg(network, COND, NULL, scale=3.0, interval=(0.1, 0.5))
    assert error(guided, halves()[0]) == 0
    guided(X, torch.full_like(T, 0.5))
    guided(X, torch.full_like(T, 0.05))
    assert network.batches == [B, 2 * B, B]


def test_outside_the_interval_the_unconditional_scale_is_conditional_too() -> None:
    assert error(cfg(Network(), COND, NULL, scale=0.0, interval=(0.1, 0.5)), halves()[0]) == 0


def test_the_ends_of_the_interval_belong_to_it_in_single_precision() -> None:
    network = Network()
    guided = cfg(network, COND, NULL, scale=3.0, interval=(0.1, 0.9))
    for t in (0.1, 0.9):
        guided(X, torch.full((B,), t, dtype=torch.float32))
    assert network.batches == [2 * B, 2 * B]


def test_times_on_both_sides_of_the_interval_are_told_apart_image_by_image() -> None:
    t = torch.tensor([0.3, 0.7, 0.3], dtype=torch.float64)
    mixed = cfg(Network(), COND, NULL, scale=3.0, interval=(0.1, 0.5))(X, t)
    inside = cfg(Network(), COND, NULL, scale=3.0)(X, t)
    outside = Network()(X, t, COND)
    assert torch.equal(mixed[0], inside[0])
    assert torch.equal(mixed[1], outside[1])


def test_a_negative_prompt_takes_the_place_of_the_null() -> None:
    negative = conditioning(B, 9)
    conditional, other = halves()[0], Network()(X, T, negative)
    assert error(cfg(Network(), COND, negative, scale=2.0), 2 * conditional - other) < 1e-12


def test_a_wrong_number_of_negative_prompts_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 prompts and 2 negative prompts"):
        cfg(Network(), COND, conditioning(2, 9), scale=2.0)


def test_full_rescale_gives_every_image_the_conditional_spread() -> None:
    spread = cfg(Network(), COND, NULL, scale=6.0, rescale=1.0)(X, T).flatten(1).std(1)
    assert (spread - halves()[0].flatten(1).std(1)).abs().max() < 1e-12


def test_half_a_rescale_is_halfway() -> None:
    none, half, full = (cfg(Network(), COND, NULL, scale=6.0, rescale=r)(X, T) for r in (0.0, 0.5, 1.0))
    assert (half - (none + full) / 2).abs().max() < 1e-12


def test_autoguidance_is_the_line_through_the_weak_and_the_strong_answer() -> None:
    strong, weak = Network()(X, T, COND), Network(0.3)(X, T, COND)
    assert error(autoguidance(Network(), Network(0.3), COND, scale=2.0), 2 * strong - weak) < 1e-12


def test_autoguidance_leaves_the_weak_model_alone_where_it_does_not_act() -> None:
    weak = Network(0.3)
    autoguidance(Network(), weak, COND, scale=2.0, interval=(0.0, 0.5))(X, T)
    autoguidance(Network(), weak, COND, scale=1.0)(X, T)
    assert weak.batches == []


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_cfg_zero_is_its_formula_in_velocities(process: Process) -> None:
    conditional, null = halves()
    # The flow's velocity of any process: scale the state by alpha + sigma, then it is a rectified flow at tau.
    total = (process.alpha(T) + process.sigma(T))[:, None, None, None]
    tau, z = process.sigma(T) / (process.alpha(T) + process.sigma(T)), X / total
    velocity = [(z - x0) / tau[:, None, None, None] for x0 in (conditional, null)]
    s = (velocity[0] * velocity[1]).sum((1, 2, 3)) / velocity[1].square().sum((1, 2, 3))
    projected = s[:, None, None, None] * velocity[1]
    v = projected + 3.0 * (velocity[0] - projected)
    expected = Flow().x0(RectifiedFlow(), z, v, tau)
    assert error(cfg_zero(Network(), COND, NULL, process=process, scale=3.0), expected) < 1e-12


def test_cfg_zero_stands_still_above_its_time_without_asking() -> None:
    network, process = Network(), RectifiedFlow()
    guided = cfg_zero(network, COND, NULL, process=process, scale=3.0, zero_above=0.96)
    x0 = guided(X, torch.ones(B, dtype=torch.float64))
    assert torch.equal(x0, X)  # v = x_1 - x0 = 0
    assert network.batches == []
    guided(X, T)
    assert network.batches == [2 * B]


def test_apg_without_its_parts_is_cfg() -> None:
    plain = cfg(Network(), COND, NULL, scale=4.0)(X, T)
    assert error(apg(Network(), COND, NULL, scale=4.0, parallel=1.0, momentum=0.0), plain) < 1e-12


def test_apg_moves_across_the_conditional_answer_only() -> None:
    conditional = halves()[0]
    moved = apg(Network(), COND, NULL, scale=4.0, momentum=0.0)(X, T) - conditional
    assert (moved * conditional).sum((1, 2, 3)).abs().max() < 1e-12
    assert moved.abs().max() > 0.1


def test_apg_limits_the_length_of_its_move() -> None:
    moved = apg(Network(), COND, NULL, scale=3.0, parallel=1.0, momentum=0.0, limit=0.5)(X, T) - halves()[0]
    assert (moved.flatten(1).norm(dim=1) - 2 * 0.5).abs().max() < 1e-12


def test_apg_remembers_its_last_move_and_forgets_it_for_a_new_generation() -> None:
    conditional, null = halves()
    guided = apg(Network(), COND, NULL, scale=2.0, parallel=1.0, momentum=-0.5)
    first, second = guided(X, T), guided(X, T)
    assert (first - conditional - (conditional - null)).abs().max() < 1e-12
    assert (second - conditional - 0.5 * (conditional - null)).abs().max() < 1e-12
    guided(X, torch.ones_like(T))
    later = apg(Network(), COND, NULL, scale=2.0, parallel=1.0, momentum=-0.5)
    later(X, torch.ones_like(T))
    assert torch.equal(guided(X, T), later(X, T))


def test_the_plus_one_convention_is_one_more() -> None:
    assert scale_from(4.0, "plus-one") == 5.0
    assert scale_from(4.0) == 4.0
    conditional, null = halves()
    guided = GUIDANCE.parse({"kind": "cfg", "scale": 4.0, "convention": "plus-one"})
    assert isinstance(guided, Guidance)
    denoise = guided.apply(Network(), COND, NULL, process=RectifiedFlow())
    assert error(denoise, (1 + 4.0) * conditional - 4.0 * null) < 1e-12


MADE: dict[str, Callable[[], Denoise]] = {
    "cfg": lambda: cfg(Network(), COND, NULL, scale=2.0, interval=(0.1, 0.9)),
    "auto": lambda: autoguidance(Network(), Network(0.3), COND, scale=2.0, interval=(0.1, 0.9)),
    "cfg-zero": lambda: cfg_zero(Network(), COND, NULL, process=Cosine(), scale=2.0, interval=(0.1, 0.9)),
    "apg": lambda: apg(Network(), COND, NULL, scale=2.0, interval=(0.1, 0.9)),
}


@pytest.mark.parametrize("kind", GUIDANCE.members)
def test_a_config_makes_the_same_denoiser_as_its_function(kind: str) -> None:
    config = GUIDANCE.parse({"kind": kind, "scale": 2.0, "interval": [0.1, 0.9]})
    assert isinstance(config, Guidance)
    denoise = config.apply(Network(), COND, NULL, process=Cosine(), weak=Network(0.3))
    assert error(denoise, MADE[kind]()(X, T)) == 0


@pytest.mark.parametrize("kind", GUIDANCE.members)
def test_guidance_of_one_image_does_not_depend_on_its_batch(kind: str) -> None:
    config = GUIDANCE.parse({"kind": kind, "scale": 3.0})
    assert isinstance(config, Guidance)
    whole = config.apply(Network(), COND, NULL, process=Cosine(), weak=Network(0.3))(X, T)
    alone = config.apply(Network(), COND[[1]], NULL, process=Cosine(), weak=Network(0.3))(X[[1]], T[[1]])
    assert (whole[[1]] - alone).abs().max() < 1e-12


@pytest.mark.parametrize("kind", GUIDANCE.members)
@pytest.mark.parametrize("t", [1.0, 1e-3])
def test_guidance_is_finite_at_the_ends_of_time(kind: str, t: float) -> None:
    config = GUIDANCE.parse({"kind": kind, "scale": 3.0})
    assert isinstance(config, Guidance)
    denoise = config.apply(Network(), COND, NULL, process=Cosine(), weak=Network(0.3))
    assert torch.isfinite(denoise(X, torch.full_like(T, t))).all()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"kind": "cgf"}, "Did you mean 'cfg'"),
        ({"kind": "cfg", "scale": 1e9}, "scale must lie in"),
        ({"kind": "cfg", "scale": float("nan")}, "scale"),
        ({"kind": "cfg", "interval": [0.9, 0.1]}, "interval"),
        ({"kind": "cfg", "rescale": 2}, "rescale"),
        ({"kind": "cfg", "convention": "mine"}, "convention"),
        ({"kind": "apg", "momentum": -3}, "momentum"),
        ({"kind": "cfg", "scales": 3}, "Did you mean 'scale'"),
    ],
)
def test_guidance_that_cannot_be_is_refused_in_words(bad: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GUIDANCE.parse(bad)


@pytest.mark.parametrize(
    "options", [{"scale": float("inf")}, {"scale": 2.0, "interval": (0.5, 0.1)}, {"scale": 2.0, "rescale": -1}]
)
def test_a_bad_value_is_refused_by_the_function_too(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="guidance"):
        cfg(Network(), COND, NULL, **options)  # type: ignore[arg-type]


def test_autoguidance_without_a_weaker_model_says_what_is_missing() -> None:
    config = GUIDANCE.parse({"kind": "auto", "scale": 2.0})
    assert isinstance(config, Guidance)
    with pytest.raises(ConfigError, match="earlier snapshot"):
        config.apply(Network(), COND, NULL, process=RectifiedFlow())
