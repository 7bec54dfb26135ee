"""A plan's numbers against the real thing, and refusals that allocate nothing."""

from __future__ import annotations

import time

import pytest
import torch

from limner import plan as planning
from limner.errors import ConfigError
from limner.networks.base import num_parameters
from limner.plan import GIB, describe, plan, refuse_if_too_large
from limner.recipe import find

RECIPE = find("digits")


@pytest.fixture(scope="module")
def planned() -> planning.Plan:
    return plan(RECIPE, timed=False)


def test_parameters_are_those_of_the_built_network(planned: planning.Plan) -> None:
    assert planned.image == planned.latent == (1, 28, 28)
    network = RECIPE.network.build(channels=1, size=(28, 28), text_width=RECIPE.text.width)
    assert planned.network_parameters == num_parameters(network)


def test_training_takes_about_three_times_the_flops_of_a_forward_pass(planned: planning.Plan) -> None:
    assert 2.5 < planned.flops_training / planned.flops_forward < 3.1


def test_flops_are_those_counted_on_real_numbers(planned: planning.Plan) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    captions = ["a handwritten digit 7", "three"]
    text = RECIPE.text.build(captions, {})
    network = RECIPE.network.build(channels=1, size=(28, 28), text_width=text.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 1, 28, 28), torch.zeros(2), text.encode(captions))
    assert planned.flops_forward == pytest.approx(counter.get_total_flops() / 2, rel=0.05)


def test_activations_are_those_that_autograd_keeps(planned: planning.Plan) -> None:
    text = RECIPE.text.build(["a handwritten digit 7"], {})
    network = RECIPE.network.build(channels=1, size=(28, 28), text_width=text.width)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in [*network.parameters(), *text.parameters()]}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(16, 1, 28, 28), torch.zeros(16), text.encode(["a handwritten digit 7"] * 16)).sum()
    real = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
    assert planned.fixed + 16 * planned.activations == pytest.approx(real, rel=0.15)


def test_state_counts_weights_gradients_adam_averages_and_the_shadow_copy(planned: planning.Plan) -> None:
    numbers = planned.network_parameters + planned.text_parameters
    assert sum(planned.state.values()) == 4 * numbers * (1 + 1 + 2 + 2 + 1)


def test_a_budget_in_seconds_is_the_time_and_one_in_images_is_unknown_on_an_untimed_cpu(planned: planning.Plan) -> None:
    assert planned.seconds == 120
    assert planned.images is None
    assert plan(find("digits", ["train.images=1000"]), timed=False).seconds is None


def test_gpus_share_the_batch_the_state_and_the_cost() -> None:
    recipe = find("digits", ["train.images=200000"])
    one, eight = plan(recipe, device="a100"), plan(recipe, device="a100", devices=8)
    assert (one.batch, eight.batch) == (128, 16)
    assert eight.sharded < eight.replicated
    assert one.seconds is not None
    assert one.cost == pytest.approx(one.seconds / 3600 * planning.DEVICES["a100"].price)
    assert one.launch_bound  # a network this small leaves an A100 waiting for Python
    assert "cost" in describe(eight)


def test_a_wrong_device_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'a10000'.*Did you mean 'a100'"):
        plan(RECIPE, device="a10000")


def test_a_description_names_every_quantity(planned: planning.Plan) -> None:
    text = describe(planned)
    for word in ("parameters", "FLOPs", "activations", "memory", "speed", "time", "2 min"):
        assert word in text


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ("network.widths=[8192,8192]", "network.widths"),
        ("train.batch=65536", "train.batch"),
        ("data.size=8192", "data.size"),
    ],
)
def test_absurd_sizes_are_refused_in_words_at_once(change: str, culprit: str) -> None:
    recipe = find("digits", [change])
    before = time.process_time()
    with pytest.raises(ConfigError, match=culprit) as caught:
        refuse_if_too_large(recipe, available=24 * GIB)
    assert time.process_time() - before < 5  # of this process alone; seconds go by when others are busy
    assert len(str(caught.value).splitlines()) <= 3


def test_what_fits_is_not_refused_and_what_just_does_not_is() -> None:
    refuse_if_too_large(RECIPE, available=GIB)
    with pytest.raises(ConfigError, match=r"at most \d+"):
        refuse_if_too_large(RECIPE, available=100 * 2**20)
    refuse_if_too_large(find("digits", ["train.accumulate=8"]), available=100 * 2**20)


def test_a_refused_batch_fits_with_the_advice_that_was_given() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_if_too_large(RECIPE, available=100 * 2**20)
    fits = int(str(caught.value).split("at most ")[1].split(",")[0])
    refuse_if_too_large(find("digits", [f"train.batch={fits}"]), available=100 * 2**20)


def test_planning_draws_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    refuse_if_too_large(RECIPE, available=GIB)
    assert torch.equal(torch.rand(4), expected)
