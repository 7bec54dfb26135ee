"""Nearest neighbours by blocks: exact, without ever holding a full matrix of distances. Next: `memorisation.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1024


def blocks(queries: np.ndarray, points: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, squared distances [b, M]) of queries [N, D] to points [M, D], `BLOCK` rows at a time.

    |q - p|^2 = |q|^2 - 2 q.p + |p|^2, with both centred first so that little is lost to cancellation.
    """
    centre = points.mean(axis=0)
    queries, points = queries - centre, points - centre
    norms = np.einsum("nd,nd->n", points, points)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        squared = block @ points.T
        squared *= -2
        squared += np.einsum("nd,nd->n", block, block)[:, None]
        squared += norms
        yield start, np.maximum(squared, 0, out=squared)


def kth_distances(points: np.ndarray, *ks: int) -> list[np.ndarray]:
    """Return, for each k, [N] squared distances of each point [N, D] to its k-th nearest other point."""
    found = np.empty((len(ks), len(points)))
    places = [k - 1 for k in ks]
    for start, squared in blocks(points, points):
        rows = np.arange(len(squared))
        squared[rows, start + rows] = np.inf  # a point is not its own neighbour
        squared.partition(places, axis=1)
        found[:, start : start + len(squared)] = squared[:, places].T
    return list(found)


def nearest(queries: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (distances [N], indices [N]) of the nearest of points [M, D] to each of queries [N, D]."""
    distances, indices = np.empty(len(queries)), np.empty(len(queries), dtype=np.int64)
    for start, squared in blocks(queries, points):
        best = squared.argmin(axis=1)
        indices[start : start + len(squared)] = best
        distances[start : start + len(squared)] = np.sqrt(squared[np.arange(len(best)), best])
    return distances, indices
