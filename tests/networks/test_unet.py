"""The U-Net: shapes, what it depends on, where gradients flow, and what it must ignore."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from limner.attention import FEW_KEYS, attend
from limner.config import validate
from limner.errors import ConfigError
from limner.networks import NETWORKS, UNet
from limner.networks.base import TimeEmbedding, num_parameters
from limner.types import Conditioning

SMALL: dict[str, Any] = {"widths": (8, 16), "head_width": 8, "embedding": 16}
VARIANTS: list[dict[str, Any]] = [
    SMALL,
    SMALL | {"patch": 1, "widths": (8, 16, 24), "attention": (False, True, True), "blocks": 2, "middle": 3},
    SMALL | {"patch": 4, "widths": (16,), "attention": (True,), "middle": 1},
]


def build(changes: dict[str, Any] | None = None, *, channels: int = 1, size: tuple[int, int] = (16, 16), awake: bool = True) -> Any:
    torch.manual_seed(0)
    network = UNet(**(changes or SMALL)).build(channels=channels, size=size, text_width=12).eval()
    if awake:  # what starts at zero gets weight, as after some training
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def question(batch: int = 2, *, channels: int = 1, size: tuple[int, int] = (16, 16), tokens: int = 5, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(batch, tokens, dtype=torch.bool)
    return (
        normal(batch, channels, *size),
        torch.rand(batch, generator=generator),
        Conditioning(normal(batch, tokens, 12), mask, normal(batch, 12)),
    )


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (3, (16, 16)), (4, (16, 32))])
def test_the_answer_has_the_shape_of_the_question(changes: dict[str, Any], channels: int, size: tuple[int, int]) -> None:
    x, t, conditioning = question(channels=channels, size=size)
    assert build(changes, channels=channels, size=size)(x, t, conditioning).shape == x.shape


@pytest.mark.parametrize("changes", VARIANTS)
def test_an_untrained_network_says_zero(changes: dict[str, Any]) -> None:
    assert not build(changes, awake=False)(*question()).any()


@pytest.mark.parametrize("changes", VARIANTS)
def test_gradients_reach_every_weight_and_every_input(changes: dict[str, Any]) -> None:
    network = build(changes)
    x, t, conditioning = question()
    inputs = [x, conditioning.tokens, conditioning.pooled]
    for tensor in inputs:
        tensor.requires_grad_()
    network(x, t, conditioning).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for tensor in inputs:
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_branch_starts_closed_but_can_open(changes: dict[str, Any]) -> None:
    """From all-zero outputs the output layer learns first, and then everything else: nothing is dead."""
    network = build(changes, awake=False).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for step in range(6):
        x, t, conditioning = question(seed=step)
        optimizer.zero_grad()
        (network(x, t, conditioning) - x).square().mean().backward()
        optimizer.step()
    still = [name for name, parameter in network.named_parameters() if torch.equal(parameter, start[name])]
    assert not still


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_answer_depends_on_time_text_and_pooled_text(changes: dict[str, Any]) -> None:
    network = build(changes)
    x, t, c = question()
    answer = network(x, t, c)
    others = [
        network(x, t + 0.05, c),
        network(x, t, Conditioning(c.tokens + 1 * torch.randn_like(c.tokens), c.mask, c.pooled)),
        network(x, t, Conditioning(c.tokens, c.mask, -c.pooled)),
    ]
    for other in others:
        assert (other - answer).abs().max() > 1e-4


@pytest.mark.parametrize("changes", VARIANTS)
def test_padding_tokens_change_nothing_whatever_they_hold(changes: dict[str, Any]) -> None:
    network = build(changes)
    x, t, c = question()
    padded = c.padded(9)
    wild = Conditioning(torch.where(padded.mask[:, :, None], padded.tokens, torch.tensor(1e3)), padded.mask, padded.pooled)
    answer = network(x, t, c)
    for other in (padded, wild):
        assert (network(x, t, other) - answer).abs().max() < 1e-5


@pytest.mark.parametrize("changes", VARIANTS)
def test_images_of_a_batch_do_not_see_each_other(changes: dict[str, Any]) -> None:
    network = build(changes)
    x, t, c = question(batch=3)
    together = network(x, t, c)
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1], c[slice(i, i + 1)])
        assert (together[i] - alone[0]).abs().max() < 1e-5


def test_weights_go_around_by_name() -> None:
    a, b = build(), build(awake=False)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(*question()), b(*question()))


def test_memory_layout_of_the_input_does_not_matter() -> None:
    network = build(VARIANTS[1], channels=3)
    x, t, c = question(channels=3)
    assert (network(x, t, c) - network(x.to(memory_format=torch.channels_last), t, c)).abs().max() < 1e-5


def test_bf16_autocast_stays_near_fp32() -> None:
    network = build()
    exact = network(*question())
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(*question()).float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


def test_dropout_acts_in_training_only() -> None:
    network = build(SMALL | {"dropout": 0.5})
    assert torch.equal(network(*question()), network(*question()))
    network.train()
    assert not torch.equal(network(*question()), network(*question()))


def test_the_default_network_is_no_larger_than_the_design_measured() -> None:
    """0.86 million parameters for digits: docs/mathematics.md, defaults on a CPU."""
    assert 0.4e6 < num_parameters(UNet().build(channels=1, size=(28, 28), text_width=64)) < 0.87e6


def test_times_of_the_table_are_told_apart() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(32)
    found = embedding(torch.arange(1001) / 1000)
    distance = (found[1:] - found[:-1]).norm(dim=1)
    assert distance.min() > 1e-3
    angles = (torch.arange(1001)[:, None] / 1000) * embedding.frequencies
    assert torch.cdist(angles.cos(), angles.cos()).add(torch.eye(1001)).min() > 1e-3


@pytest.mark.parametrize("keys", [7, FEW_KEYS + 40])
def test_attention_is_softmax_of_products_over_the_kept_keys(keys: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, keys, keys))
    keep = torch.rand(2, 1, 1, keys, generator=generator) < 0.5
    keep[..., 0] = True
    scores = (q.double() @ k.double().transpose(-1, -2) / 8**0.5).masked_fill(~keep, -torch.inf)
    assert (attend(q, k, v, keep) - scores.softmax(-1) @ v.double()).abs().max() < 1e-5
    whole = (q.double() @ k.double().transpose(-1, -2) / 8**0.5).softmax(-1) @ v.double()
    assert (attend(q, k, v) - whole).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"widths": []}, "at least one level"),
        ({"widths": [8, 12]}, "multiple of 8"),
        ({"widths": [8, 16384]}, "between 8 and 8192"),
        ({"widths": [8, 16, 32]}, "2 entries for 3 widths"),
        ({"widths": [8, 16], "head_width": 12}, "head_width 12"),
        ({"patch": 0}, "patch"),
        ({"dropout": 1}, "dropout"),
        ({"width": 8}, "Did you mean 'widths'"),
    ],
)
def test_geometry_that_does_not_fit_is_refused_in_words(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        validate(UNet, changes)


def test_images_that_do_not_divide_are_refused_with_the_divisor() -> None:
    with pytest.raises(ConfigError, match="30x30 do not divide by 4"):
        UNet().build(channels=1, size=(30, 30), text_width=8)


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'unet'"):
        NETWORKS.parse("unett")
