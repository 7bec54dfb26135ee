"""All distances of one set of pictures in one feature network, each beside what real images and what noise score at the
same count.

    value      pictures against references
    interval   95 %, see `intervals.resampled`
    floor      real images that are in neither set against the same references: as good as it gets
    ceiling    uniform noise against the same references: as bad as it gets

Next: `evaluate.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from limner.evaluation import distances
from limner.evaluation.distances import Features
from limner.evaluation.intervals import half, resampled

WIDE = 512  # features above which a covariance is too large to resample in seconds
DRAWS = 24

Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]
Labels = tuple[np.ndarray | None, np.ndarray | None]


def _frechet(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {"frechet": distances.frechet_distance(x, y)}


def _kernel(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {"kernel": distances.kernel_distance(x, y)}


def _sliced(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {"sliced_wasserstein": distances.sliced_wasserstein(x, y, directions=128)}


MEASURES: tuple[Measure, ...] = (_frechet, _kernel, _sliced, distances.neighbour_measures)
HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")


def all_measures(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return every distance of pictures x [N, D] to references y [N, D]. Raises: EvaluationError as `check_pair`."""
    return {key: value for measure in MEASURES for key, value in measure(x, y).items()}


def measure(
    made: Features,
    references: Features,
    *,
    floor: Features | None = None,
    noise: Features | None = None,
    labels: Labels = (None, None),
    intervals: bool = True,
) -> dict[str, dict[str, Any]]:
    """Return {name: {value, interval, floor, ceiling}} of one feature network, all sets at one count.

    Arguments:
        made, references: [N, D]. floor: other real images. noise: noise images. Sets that are not given are left out.
        labels: classes of made and of references, where they are balanced by design; for the intervals.
        intervals: whether to resample; only values where there are fewer than 40 images, or features are wide.
    Raises: EvaluationError as `check_pair`; a floor or noise of another count is refused too.
    """
    distances.check_pair(made, references)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said once, above
        result: dict[str, dict[str, Any]] = {
            key: {"value": value} for key, value in all_measures(made.values, references.values).items()
        }
        others = {"floor": floor, "ceiling": noise}
        for role, features in others.items():
            if features is not None:
                distances.check_pair(features, references)
                for key, value in all_measures(features.values, references.values).items():
                    result[key][role] = value
        if intervals and len(made.values) >= 40 and made.values.shape[1] <= WIDE:
            for function in MEASURES[:3]:
                for key in function(made.values[:40], references.values[:40]):
                    low, high = resampled(_only(function, key), made.values, references.values, labels=labels, draws=DRAWS)
                    result[key]["interval"] = [low if key == "kernel" else max(0.0, low), high]
            _neighbour_intervals(made.values, references.values, labels, result)
    return result


def _only(function: Measure, key: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda x, y: function(x, y)[key]


def _neighbour_intervals(x: np.ndarray, y: np.ndarray, labels: Labels, result: dict[str, dict[str, Any]]) -> None:
    """All four numbers from the same halves, as `resampled`, since neighbours are what takes time."""
    generator = np.random.default_rng(0)
    halves = []
    for _ in range(DRAWS // 2):
        first, second = half(len(x), labels[0], generator), half(len(y), labels[1], generator)
        count = min(len(first), len(second))
        halves.append(distances.neighbour_measures(x[first[:count]], y[second[:count]]))
    for key in halves[0]:
        spread = 1.96 * float(np.std([each[key] for each in halves], ddof=1))
        top = np.inf if key == "density" else 1.0
        result[key]["interval"] = [max(0.0, result[key]["value"] - spread), min(top, result[key]["value"] + spread)]


def tones(images: np.ndarray) -> dict[str, float]:
    """Return the pixels' mean, spread, 1st, 50th and 99th percentile, and shares at 0 and 255, of images [N, C, H, W]
    uint8."""
    counts = np.bincount(images.ravel(), minlength=256).astype(np.float64)
    shares = counts / counts.sum()
    levels = np.arange(256)
    mean = float(shares @ levels)
    cumulative = np.cumsum(shares)
    return {
        "mean": mean,
        "spread": float(np.sqrt(shares @ (levels - mean) ** 2)),
        "low": int(np.searchsorted(cumulative, 0.01)),
        "middle": int(np.searchsorted(cumulative, 0.5)),
        "high": int(np.searchsorted(cumulative, 0.99)),
        "black": float(shares[0]),
        "white": float(shares[255]),
    }


def range_warning(images: np.ndarray, references: np.ndarray) -> str:
    """Return a sentence when the pictures' tones are not those of the references, as after a mistaken value range; else
    ""."""
    made, real = tones(images), tones(references)
    shift = abs(made["mean"] - real["mean"]) / max(real["spread"], 1.0)
    stretch = made["spread"] / max(real["spread"], 1.0)
    if shift < 0.25 and 0.75 < stretch < 1.33:
        return ""
    return (
        f"value range: the pictures' pixels have mean {made['mean']:.0f} and spread {made['spread']:.0f}, "
        f"the references' {real['mean']:.0f} and {real['spread']:.0f}; one of them may be in another range"
    )
