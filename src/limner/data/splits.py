"""Who sees which image: the generator (train), the judge, or neither (test); pure functions. Next: `store.py`."""

from __future__ import annotations

import numpy as np

SPLITS = ("train", "judge", "test")


def shuffled(indices: np.ndarray, salt: int = 0) -> np.ndarray:
    """Return `indices` [n] in an order that looks random and depends on their values and `salt` alone, for ever.

    Sorted by the SplitMix64 hash of each index, a bijection: no ties, and no generator whose stream may change.
    Source: Steele, Lea and Flood 2014, Figure 16 (the finaliser).
    """
    mixed = indices.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return indices[np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")]


def choose(count: int, limit: int | None) -> np.ndarray:
    """Return the sorted indices of at most `limit` of `count` things, spread evenly over them as by chance."""
    indices = np.arange(count)
    return indices if limit is None or limit >= count else np.sort(shuffled(indices, salt=1)[:limit])


def assign(labels: np.ndarray, preset_test: np.ndarray, *, judge: float, test: float) -> np.ndarray:
    """Return [N] uint8, the place in `SPLITS` of each image; every class is divided in the same shares.

    Arguments:
        labels: [N] int64, -1 where there is none (those form one class of their own).
        preset_test: [N] bool, True where the source itself says "test"; if any is, `test` takes nothing of the others.
        judge, test: shares in [0, 1), of the images that are not preset.
    """
    place = np.where(preset_test, 2, 0).astype(np.uint8)
    test_share = 0.0 if preset_test.any() else test
    for label in np.unique(labels):
        order = shuffled(np.flatnonzero((labels == label) & ~preset_test), salt=2)
        num_test = int(test_share * len(order) + 0.5)
        num_judge = int(judge * len(order) + 0.5)
        place[order[:num_test]] = 2
        place[order[num_test : num_test + num_judge]] = 1
    return place
