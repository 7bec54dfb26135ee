"""Distances between two sets of images, on feature matrices [N, D] float64: what every number about quality comes from.

    frechet_distance      |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^1/2)
    kernel_distance       unbiased squared MMD of the kernel (x.y / D + 1)^3 (KID)
    sliced_wasserstein    root of the mean over directions of W_2^2 of the projections
    neighbour_measures    precision, recall, density, coverage

Sets are compared at equal counts only, since all of these are biased by the count. `intervals.py` says how sure they
are.
Next: `neighbours.py`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from limner.errors import EvaluationError
from limner.evaluation.neighbours import blocks, kth_distances

LOW_COUNT = 500


@dataclass(frozen=True)
class Features:
    """What a feature network makes of N images.

    Arguments:
        values: [N, D] float64. network: the network's name. sha256: of its weights.
    """

    values: np.ndarray
    network: str = ""
    sha256: str = ""


def check_pair(x: np.ndarray | Features, y: np.ndarray | Features, *, equal: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return two feature matrices as float64 arrays that may be compared; warn when there are few rows.

    Raises: EvaluationError for other networks, unequal counts or widths, fewer than 2 rows, NaN or infinity.
    """
    if isinstance(x, Features) and isinstance(y, Features) and (x.network, x.sha256) != (y.network, y.sha256):
        raise EvaluationError(
            f"features of different networks cannot be compared: {x.network} ({x.sha256[:12]}) and {y.network} ({y.sha256[:12]})."
        )
    first, second = _matrix(x, "first"), _matrix(y, "second")
    if first.shape[1] != second.shape[1]:
        raise EvaluationError(f"features of {first.shape[1]} and {second.shape[1]} numbers come from different networks.")
    if equal and len(first) != len(second):
        raise EvaluationError(
            f"{len(first)} images against {len(second)}: distances are biased by the count, so both sets "
            "must have the same.\n"
            f"Take {min(len(first), len(second))} of each (--num {min(len(first), len(second))})."
        )
    if min(len(first), len(second)) < LOW_COUNT:
        warnings.warn(
            f"{min(len(first), len(second))} images are few for a distance (under {LOW_COUNT}): read it "
            "beside its floor and interval.",
            stacklevel=3,
        )
    return first, second


def _matrix(features: np.ndarray | Features, which: str) -> np.ndarray:
    values = np.asarray(features.values if isinstance(features, Features) else features, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise EvaluationError(f"the {which} set: features are a matrix [N, D], not {list(values.shape)}.")
    if len(values) < 2:
        raise EvaluationError(f"the {which} set has {len(values)} image{'s' * (len(values) != 1)}; a distance needs two or more.")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise EvaluationError(
            f"the {which} set: {int(bad.sum())} of {len(values)} rows are not finite, the first is {int(bad.argmax())}."
        )
    return values


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [D] and the covariance [D, D] (divided by N - 1) of features [N, D]."""
    mean = values.mean(axis=0)
    centred = values - mean
    return mean, centred.T @ centred / (len(values) - 1)


def frechet_of_moments(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    """Return the squared Fréchet distance of two Gaussians; exact also where covariances are singular.

    tr((S_x S_y)^1/2) is the nuclear norm of S_x^1/2 S_y^1/2, whose factors are symmetric roots by eigenvalues: no root
    of a non-symmetric matrix, nothing complex, no offset added to the diagonal.
    Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv:1706.08500), Eq. 6.
    """
    root_x, root_y = _root(cov_x), _root(cov_y)
    trace = np.linalg.svd(root_x @ root_y, compute_uv=False).sum()
    shift = mean_x - mean_y
    return max(0.0, float(shift @ shift + np.trace(cov_x) + np.trace(cov_y) - 2 * trace))


def _root(cov: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a covariance; eigenvalues below 0 are rounding and count as 0."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(x: np.ndarray | Features, y: np.ndarray | Features) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to two sets (FID, in the features that are given).

    Raises: EvaluationError as `check_pair`.
    """
    first, second = check_pair(x, y)
    return frechet_of_moments(*moments(first), *moments(second))


def kernel_distance(x: np.ndarray | Features, y: np.ndarray | Features) -> float:
    """Return the unbiased squared MMD under k(x, y) = (x.y / D + 1)^3; it may be slightly below 0.

    Source: Binkowski et al. 2018 (arXiv:1801.01401), Eq. 4.
    Raises: EvaluationError as `check_pair`.
    """
    first, second = check_pair(x, y)
    n, m = len(first), len(second)
    inside = [(_kernel(a, a).sum() - _kernel_diagonal(a).sum()) / (len(a) * (len(a) - 1)) for a in (first, second)]
    return float(inside[0] + inside[1] - 2 * _kernel(first, second).sum() / (n * m))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return [N, M] (a.b / D + 1)^3."""
    base = a @ b.T
    base /= a.shape[1]
    base += 1
    cube = base * base
    cube *= base
    return cube


def _kernel_diagonal(a: np.ndarray) -> np.ndarray:
    return (np.einsum("nd,nd->n", a, a) / a.shape[1] + 1) ** 3


def sliced_wasserstein(x: np.ndarray | Features, y: np.ndarray | Features, *, directions: int = 256, seed: int = 0) -> float:
    """Return (mean over random directions of W_2^2 of the projections)^1/2; unlike Fréchet's it sees more than two
    moments.

    Source: Bonneel et al. 2015, Definition 4.
    Raises: EvaluationError as `check_pair`.
    """
    first, second = check_pair(x, y)
    rays = np.random.default_rng(seed).standard_normal((first.shape[1], directions))
    rays /= np.linalg.norm(rays, axis=0)
    difference = np.sort(first @ rays, axis=0) - np.sort(second @ rays, axis=0)
    return float(np.sqrt((difference**2).mean()))


def neighbour_measures(
    images: np.ndarray | Features, references: np.ndarray | Features, *, k: int = 3, k_density: int = 5
) -> dict[str, float]:
    """Return `precision`, `recall`, `density` and `coverage` of images against references.

    A ball around an image reaches to its k-th nearest neighbour in its own set.
        precision   share of images inside the ball of some reference
        recall      share of references inside the ball of some image
        density     how many references' balls an image is in, on average, divided by k
        coverage    share of references with an image in their ball
    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), Eq. 1 and 2; Naeem et al. 2020 (arXiv:2002.09797), Eq. 3 and 4.

    Arguments:
        k: of precision and recall. k_density: of density and coverage.
    Raises: EvaluationError as `check_pair`, and for k outside 1 to N - 1.
    """
    made, real = check_pair(images, references)
    for neighbours in (k, k_density):
        if not 1 <= neighbours < len(real):
            raise EvaluationError(f"k = {neighbours} neighbours: with {len(real)} images it lies between 1 and {len(real) - 1}.")
    radius, radius_density = kth_distances(real, k, k_density)
    (radius_made,) = kth_distances(made, k)
    precise, dense = 0, 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start, squared in blocks(made, real):
        precise += int((squared <= radius).any(axis=1).sum())
        recalled |= (squared <= radius_made[start : start + len(squared), None]).any(axis=0)
        inside = squared <= radius_density
        dense += int(inside.sum())
        covered |= inside.any(axis=0)
    return {
        "precision": precise / len(made),
        "recall": float(recalled.mean()),
        "density": dense / (k_density * len(made)),
        "coverage": float(covered.mean()),
    }


def read_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean [D], covariance [D, D]) of published reference statistics: an .npz with `mu` and `sigma`, no
    pickles.

    Raises: EvaluationError when the file is missing, of another format, holds objects, or its shapes do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, cov = np.asarray(file["mu"], np.float64), np.asarray(file["sigma"], np.float64)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: there is no such file of reference statistics.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise EvaluationError(
            f"{path}: not reference statistics (an .npz with mu [D] and sigma [D, D], no objects): {error}"
        ) from error
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not np.isfinite(mean).all() or not np.isfinite(cov).all():
        raise EvaluationError(f"{path}: mu {list(mean.shape)} and sigma {list(cov.shape)} are not a mean and a covariance.")
    return mean, cov


def frechet_to_statistics(images: np.ndarray | Features, mean: np.ndarray, cov: np.ndarray) -> float:
    """Return the Fréchet distance of a set to published statistics. The counts differ by design: state both beside it.

    Raises: EvaluationError when the widths differ, or as `check_pair` for the set.
    """
    made = _matrix(images, "first")
    if made.shape[1] != len(mean):
        raise EvaluationError(f"the statistics are of {len(mean)} features, the images' of {made.shape[1]}: different networks.")
    return frechet_of_moments(*moments(made), mean, cov)
