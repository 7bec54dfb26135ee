"""Which image comes when, and which random numbers belong to it: pure functions of the seed and of the images seen so far.

Position p counts the images of the whole training run. Batch k of size B holds the positions k·B ... (k+1)·B - 1 whatever the
number of processes, restarts or threads, so nothing about order has to be saved. Source: the idea is Karras et al. 2024 (EDM2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limner.errors import DataError

_ORDER, _DRAW = 1, 2  # streams of one seed
_GOLDEN = 0.6180339887498949


class Order:
    """The endless sequence of image indices: each epoch is a fresh permutation.

    Arguments:
        indices: [N] which images of a store to walk through.
        seed: of the run.
    Raises: DataError when there are no indices.
    """

    def __init__(self, indices: np.ndarray, seed: int) -> None:
        if len(indices) == 0:
            raise DataError("there are no images to train on: the data source's training split is empty.")
        self.indices = np.asarray(indices)
        self.seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def __getitem__(self, positions: Sequence[int] | np.ndarray | range) -> np.ndarray:
        """Return the image index at each position, [len(positions)]."""
        positions = np.asarray(positions)
        n = len(self.indices)
        return np.array([self.indices[self._permutation(p // n)[p % n]] for p in positions.tolist()], dtype=np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        found = self._epochs.get(epoch)
        if found is None:
            found = stream(self.seed, _ORDER, epoch).permutation(len(self.indices))
            self._epochs = {key: value for key, value in self._epochs.items() if key >= epoch - 1} | {epoch: found}
        return found


@dataclass(frozen=True)
class Draws:
    """The random numbers of B positions.

    Arguments:
        eps: [B, C, H, W] float32, standard normal.
        time: [B] in [0, 1): low-discrepancy over consecutive positions, to be mapped by a `Times`.
        drop, caption, flip: [B] in [0, 1): whether the caption is dropped, which caption is taken, whether the image is flipped.
        shift: [B, 2] in [0, 1): rows and columns of a random shift.
    """

    eps: np.ndarray
    time: np.ndarray
    drop: np.ndarray
    caption: np.ndarray
    flip: np.ndarray
    shift: np.ndarray


def draws(seed: int, positions: Sequence[int] | range, shape: tuple[int, ...]) -> Draws:
    """Return the random numbers that belong to `positions`; `shape` is one image's latent shape (C, H, W)."""
    count = len(positions)
    eps = np.empty((count, *shape), dtype=np.float32)
    uniform = np.empty((count, 5))
    for row, position in enumerate(positions):
        rng = stream(seed, _DRAW, position)
        uniform[row] = rng.random(5)
        rng.standard_normal(out=eps[row], dtype=np.float32)
    offset = stream(seed, _DRAW, 2**40).random()
    # Kronecker sequence: any run of consecutive positions covers [0, 1) evenly, which lowers the variance of the loss.
    time = np.array([(offset + p * _GOLDEN) % 1.0 for p in positions])
    return Draws(eps, time, uniform[:, 0], uniform[:, 1], uniform[:, 2], uniform[:, 3:5])


def stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Return the counter-based generator number `index` of one purpose of a seed."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, (purpose << 56) | index], dtype=np.uint64)))
