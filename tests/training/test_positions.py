"""Which image comes when: pure functions of seed and position, whatever the number of processes."""

from __future__ import annotations

import numpy as np
import pytest

from limner.data.order import Order, draws
from limner.errors import DataError

INDICES = np.arange(100, 150)


def walk(order: Order, *, batches: int, batch: int, worlds: list[int], start: int = 0) -> list[list[int]]:
    """Return the ids of each global batch, put together from what each rank of each batch's world reads by itself."""
    found = []
    for k in range(batches):
        world = worlds[k % len(worlds)]
        share = batch // world
        ids = []
        for rank in range(world):
            first = start + k * batch + rank * share
            ids += Order(order.indices, order.seed)[range(first, first + share)].tolist()
        found.append(ids)
    return found


def test_the_order_is_a_pure_function_of_seed_and_position() -> None:
    forwards = Order(INDICES, 3)[range(500)]
    order = Order(INDICES, 3)
    backwards = [order[[p]][0] for p in reversed(range(500))]  # any path through the epochs, forgetting included
    assert forwards.tolist() == backwards[::-1]


def test_every_epoch_is_a_permutation_and_no_two_are_equal() -> None:
    epochs = Order(INDICES, 3)[range(20 * 50)].reshape(20, 50)
    assert (np.sort(epochs, axis=1) == INDICES).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 20


def test_another_seed_gives_another_order() -> None:
    assert Order(INDICES, 3)[range(50)].tolist() != Order(INDICES, 4)[range(50)].tolist()


@pytest.mark.parametrize("worlds", [[2], [4], [1, 2], [1, 2, 4, 2]])
def test_global_batches_are_equal_at_any_and_at_changing_numbers_of_processes(worlds: list[int]) -> None:
    order = Order(INDICES, 7)
    alone = walk(order, batches=30, batch=20, worlds=[1])
    assert walk(order, batches=30, batch=20, worlds=worlds) == alone
    seen = np.bincount(np.concatenate(alone) - 100)
    assert seen.sum() == 600 and (seen == 12).all()  # 0 missing, 0 twice


def test_draws_belong_to_positions_and_not_to_batches() -> None:
    whole = draws(5, range(1000, 1012), (1, 4, 4))
    parts = [draws(5, range(1000 + a, 1000 + b), (1, 4, 4)) for a, b in ((0, 5), (5, 6), (6, 12))]
    for name in ("eps", "time", "drop", "caption", "flip", "shift"):
        assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(whole, name)).all(), name


def test_draws_of_positions_seeds_and_kinds_are_independent() -> None:
    a, b = draws(5, range(400), (1, 8, 8)), draws(6, range(400), (1, 8, 8))
    assert len(np.unique(a.eps[:, 0, 0, 0])) == 400
    assert abs(np.corrcoef(a.eps.ravel(), b.eps.ravel())[0, 1]) < 0.02
    columns = np.stack([a.drop, a.caption, a.flip, a.shift[:, 0], a.shift[:, 1], a.eps[:, 0, 0, 0]])
    assert np.abs(np.corrcoef(columns) - np.eye(6)).max() < 0.2


def test_noise_is_standard_normal_and_decisions_are_uniform() -> None:
    found = draws(0, range(2000), (1, 8, 8))
    assert abs(found.eps.mean()) < 0.01 and abs(found.eps.std() - 1) < 0.01
    for values in (found.drop, found.caption, found.flip, found.shift):
        assert values.min() >= 0 and values.max() < 1
        assert abs(values.mean() - 0.5) < 0.03


def test_times_cover_the_unit_interval_evenly_over_every_run_of_positions() -> None:
    """Star discrepancy of any 128 consecutive times is far below that of random ones (about 0.08)."""
    for first in (0, 12_345, 10**9):
        times = np.sort(draws(1, range(first, first + 128), (1, 1, 1)).time)
        grid = np.arange(128) / 128
        assert max(np.abs(times - grid).max(), np.abs(times - grid - 1 / 128).max()) < 0.025


def test_times_of_two_seeds_are_shifted_against_each_other() -> None:
    assert draws(1, range(1), (1,)).time[0] != draws(2, range(1), (1,)).time[0]


def test_an_empty_training_split_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="no images to train on"):
        Order(np.array([], dtype=int), 0)
