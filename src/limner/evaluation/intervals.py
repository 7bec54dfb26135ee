"""How sure a number is: intervals for means, shares and distances. Next: `adherence.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from limner.errors import EvaluationError

Statistic = Callable[[np.ndarray, np.ndarray], float]


def bootstrap_mean(values: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of values [N].

    Source: Efron 1979. Raises: EvaluationError for an empty array.
    """
    if len(values) == 0:
        raise EvaluationError("an interval needs at least one value.")
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(values), (draws, len(values)), dtype=np.int32)
    means = np.asarray(values, np.float64)[rows].mean(axis=1)
    return _ends(means, level)


def wilson(hits: int, num: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the score interval of a share `hits / num`; unlike the bootstrap's it is not empty at 0 or 100 %.

    Source: Wilson 1927. Raises: EvaluationError when num < 1.
    """
    if num < 1:
        raise EvaluationError("a share needs at least one image.")
    share = hits / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def half(num: int, labels: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """Return half of the indices 0 .. num - 1, drawn without replacement; with labels [num], half of each class.

    Sets whose classes are balanced by design must stay so: otherwise the spread is that of the classes' shares, several times too wide.
    """
    shuffled = generator.permutation(num)
    if labels is None:
        return shuffled[: num // 2]
    mine = np.asarray(labels)[shuffled]
    groups = [shuffled[mine == label] for label in np.unique(mine)]
    return np.concatenate([rows[: (len(rows) + turn % 2) // 2] for turn, rows in enumerate(groups)])


def resampled(
    statistic: Statistic,
    x: np.ndarray,
    y: np.ndarray,
    *,
    labels: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    draws: int = 40,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval for statistic(x, y) of sets [N, D] and [M, D], from halves drawn without replacement.

    The spread of the statistic over random halves equals, to first order, its standard error on the whole, since the
    variance of a half about the whole is s^2 (2/N - 1/N) = s^2/N. Drawing with replacement instead would put copies
    into each set, which nearest neighbours and covariances take for structure. The halves' own bias (a half has fewer
    images) is removed by
    centring: the interval is the value on the whole plus the halves' deviations from their mean.
    labels: classes of x and of y where they are balanced by design, see `half`.
    Source: Shao and Wu 1989 (the delete-d jackknife), with d = N/2.
    Differs: percentiles of a Gaussian of the halves' standard deviation, which needs fewer draws than empirical ones.
    """
    if min(len(x), len(y)) < 8:
        raise EvaluationError(f"an interval needs at least 8 images of each set, there are {len(x)} and {len(y)}.")
    generator = np.random.default_rng(seed)
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the low count of the halves is not the user's
        whole = statistic(x, y)
        for _ in range(draws):
            first, second = half(len(x), labels[0], generator), half(len(y), labels[1], generator)
            count = min(len(first), len(second))  # odd classes round differently
            values.append(statistic(x[first[:count]], y[second[:count]]))
    z = float(_normal_quantile(0.5 + level / 2))
    spread = z * float(np.std(values, ddof=1))
    return whole - spread, whole + spread


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri  # scipy takes a moment to import

    return float(ndtri(share))


def _ends(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
