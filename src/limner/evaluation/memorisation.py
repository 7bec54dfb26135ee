"""Are the pictures copies? Distances to the nearest training image, beside the same for real images that were never
trained on.

    probability   P(nearest training distance < nearest held-out distance), both sets of one size: 0.5 for one that
                  knows the training set no better than the rest of the world, more for one that copies
    real          the same for real images that were never trained on: what 0.5 turns out to be on these data
    copies        share of pictures nearer to a training image than nearly every real image is (its 1st percentile)

Next: `measures.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from limner.errors import EvaluationError
from limner.evaluation.intervals import bootstrap_mean
from limner.evaluation.neighbours import nearest

MOST_FOLDS = 8


def memorisation(
    made: np.ndarray, train: np.ndarray, heldout: np.ndarray, real: np.ndarray, *, pairs: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Return how much nearer pictures are to the training set than they have to be.

    Arguments:
        made: [N, D] pictures as vectors (pixels or features). train: [T, D] what the generator was trained on.
        heldout: [M, D] real images that it never saw. real: [R, D] other such images, for calibration; disjoint from
            heldout.
        pairs: how many closest pairs are returned.
    Returns: `probability` {value, interval}, `real` {value, interval}, `copies` {value, threshold}, `count` (of each of
        the two sets), `closest` [{image, train, distance}], the nearest first, as indices into `made` and `train`.
    Raises: EvaluationError when a set is empty, not finite or of another width.
    """
    sets = {"made": made, "train": train, "heldout": heldout, "real": real}
    for name, values in sets.items():
        if values.ndim != 2 or len(values) == 0 or values.shape[1] != made.shape[1] or not np.isfinite(values).all():
            raise EvaluationError(
                f"memorisation: `{name}` {list(values.shape)} has to be a finite matrix with rows of {made.shape[1]}."
            )
    made, train, heldout, real = (np.asarray(values) for values in sets.values())
    count = min(len(train), len(heldout))
    order = np.random.default_rng(seed).permutation(len(train))
    folds = [order[start : start + count] for start in range(0, len(order) - count + 1, count)][:MOST_FOLDS]
    heldout = heldout[:count]
    distances, partners = nearest(made, train)
    real_distances, _ = nearest(real, train)
    threshold = float(np.quantile(real_distances, 0.01))
    closest = np.argsort(distances, kind="stable")[:pairs]
    return {
        "probability": _preference(made, train, folds, heldout),
        "real": _preference(real, train, folds, heldout),
        "copies": {"value": float((distances < threshold).mean()), "threshold": threshold},
        "median_distance": {"made": float(np.median(distances)), "real": float(np.median(real_distances))},
        "count": count,
        "closest": [{"image": int(index), "train": int(partners[index]), "distance": float(distances[index])} for index in closest],
    }


def _preference(queries: np.ndarray, train: np.ndarray, folds: list[np.ndarray], heldout: np.ndarray) -> dict[str, Any]:
    """Return P(d_train < d_heldout), ties counted half, the mean over disjoint parts of the training set."""
    to_heldout, _ = nearest(queries, heldout)
    preferred = np.zeros(len(queries))
    for fold in folds:
        to_train, _ = nearest(queries, train[fold])
        preferred += (to_train < to_heldout) + 0.5 * (to_train == to_heldout)
    preferred /= len(folds)
    return {"value": float(preferred.mean()), "interval": list(bootstrap_mean(preferred))}
