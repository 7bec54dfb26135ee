"""`evaluate`: pictures against references -> one dict of numbers with everything that has to be known about them.

It neither samples nor reads files; `run.py` does, and calls this. What the dict holds: docs/evaluation.md. Next:
`run.py`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from limner.errors import EvaluationError
from limner.evaluation.adherence import Verify, adherence, clip_score, share, verified
from limner.evaluation.classifiers import FEATURES
from limner.evaluation.distances import LOW_COUNT, Features
from limner.evaluation.features import Clip, FeatureCache, FeatureNetwork, RandomFeatures, require_images
from limner.evaluation.judge import Judge
from limner.evaluation.measures import measure, range_warning, tones
from limner.evaluation.memorisation import memorisation

FORMAT = 1
MOST_NEIGHBOURS = 2000  # held-out images, and real ones, that memorisation takes


@dataclass(frozen=True)
class Real:
    """The real images that pictures are judged by, [N, C, H, W] uint8 each.

    Arguments:
        references: that neither generator nor judge has seen. labels: their classes, -1 unknown, or None.
        floor: other real images that the judge has not seen, for real against real; None where there are none.
        train: that the generator was trained on; other: real, and in neither set. Both are for memorisation.
        fingerprint: of where they come from.
    """

    references: np.ndarray
    labels: np.ndarray | None = None
    floor: np.ndarray | None = None
    train: np.ndarray | None = None
    other: np.ndarray | None = None
    fingerprint: str = ""


def spread(num: int, total: int) -> np.ndarray:
    """Return `num` of the indices 0 .. total - 1, evenly spread, so that sorted classes keep their shares."""
    return np.floor(np.arange(num) * total / num).astype(np.int64)


def balanced(num: int, total: int, labels: np.ndarray | None) -> np.ndarray:
    """Return `num` of the indices 0 .. total - 1, sorted: equally many of each label as far as there are, else a fixed random choice.

    Images are often in turn by class or sorted by class, so that no regular choice of them is safe.
    """
    shuffled = np.random.default_rng(0).permutation(total)
    if labels is None:
        return np.sort(shuffled[:num])
    mine = np.asarray(labels)[shuffled]
    place = np.zeros(total, dtype=np.int64)
    for label in np.unique(mine):
        rows = np.flatnonzero(mine == label)
        place[rows] = np.arange(len(rows))
    return np.sort(shuffled[np.lexsort((mine, place))[:num]])


def evaluate(
    images: np.ndarray,
    real: Real,
    *,
    prompts: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
    judge: Judge | None = None,
    networks: Sequence[FeatureNetwork] = (),
    clip: Clip | None = None,
    verify: Verify | None = None,
    compared: int | None = None,
    intervals: bool = True,
    cache: FeatureCache | None = None,
    provenance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return every score of pictures [N, C, H, W] uint8, with counts, floors, intervals, warnings and provenance.

    Arguments:
        prompts, labels: what was asked for, and its classes (-1 where it is none's), one a picture.
        judge: for adherence and its features. networks: further feature networks; `random-conv` is always there.
        compared: how many of each set the distances take, evenly spread; None demands equal counts.
        cache: of the real images' features. provenance: what the caller knows about the pictures.
    Raises: EvaluationError for pictures or references that are empty, not finite, of other sizes, or of unequal counts.
    """
    start = perf_counter()
    count = _check(images, real.references, compared)
    cache = cache or FeatureCache(None)
    notes: list[str] = []
    read = None
    result: dict[str, Any] = {"format": FORMAT}
    result["counts"] = {"images": len(images), "references": len(real.references), "compared": count}
    if judge is not None:
        read = _Read(judge, images, real.references, cache)
        result |= _adherence(read, real, prompts, labels)
        notes.append(judge.seen.warning(real.fingerprint))
    if verify is not None and prompts is not None:
        result["verified"] = verified(verify, images, prompts)
    if clip is not None and prompts is not None:
        result["clip_score"] = clip_score(clip, images, prompts)
    mine = balanced(count, len(images), labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result["distances"], used = _distances(
            images, mine, labels, real, count, [*([read] if read else []), *networks], cache, intervals
        )
    notes += [str(warning.message) for warning in caught if "few" in str(warning.message)][:1]
    notes.append(_count_note(len(images), len(real.references), count))
    result["memorisation"] = _memorisation(images, real)
    result["tones"] = {"images": tones(images), "references": tones(real.references)}
    notes.append(range_warning(images, real.references))
    result["warnings"] = [note for note in dict.fromkeys(notes) if note]
    result["provenance"] = (provenance or {}) | {
        "references": {
            "fingerprint": real.fingerprint,
            "sha256": _digest(real.references),
            "count": len(real.references),
        },
        "images_sha256": _digest(images),
        "shape": list(images.shape[1:]),
        "judge": judge.describe() if judge else None,
        "features": used,
    }
    result["seconds"] = round(perf_counter() - start, 3)
    return result


def _check(images: np.ndarray, references: np.ndarray, compared: int | None) -> int:
    """Return how many images of each set are compared."""
    for values, what in ((images, "pictures"), (references, "references")):
        try:
            require_images(values)
        except EvaluationError as error:
            raise EvaluationError(f"{what}: {error}") from error
    if images.shape[1:] != references.shape[1:]:
        raise EvaluationError(
            f"pictures of {list(images.shape[1:])} and references of {list(references.shape[1:])} [C, H, "
            "W] cannot be compared; "
            "resize one of them first, and say so."
        )
    most = min(len(images), len(references))
    if compared is None and len(images) != len(references):
        raise EvaluationError(f"{len(images)} pictures against {len(references)} references: take {most} of each (--num {most}).")
    count = most if compared is None else compared
    if not 2 <= count <= most:
        raise EvaluationError(
            f"{count} of {len(images)} pictures and {len(references)} references: from 2 to {most} can be compared."
        )
    return count


def _count_note(images: int, references: int, count: int) -> str:
    if images == count >= LOW_COUNT:
        return ""
    few = f" (under {LOW_COUNT}: read them beside floor and interval)" if count < LOW_COUNT else ""
    return f"distances compare {count} pictures with {count} references{few}; there are {images} and {references}"


class _Both:
    """A judge's features and probabilities side by side, so that the cache keeps both."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.name, self.sha256 = judge, f"{judge.name}-and-probabilities", judge.sha256

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, 64 + K] float64."""
        return np.hstack(self.judge.read(images))


class _Read:
    """A judge that has read the two sets that everything else is asked about; as a feature network it reads no image
    twice."""

    def __init__(self, judge: Judge, images: np.ndarray, references: np.ndarray, cache: FeatureCache) -> None:
        self.judge, self.name, self.sha256 = judge, judge.name, judge.sha256
        self.sets = (images, references)
        kept = cache.features(_Both(judge), references).values
        self.read = [judge.read(images), (kept[:, :FEATURES], kept[:, FEATURES:])]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, 64] float64."""
        for values, (features, _) in zip(self.sets, self.read, strict=True):
            if images is values:
                return features
        return self.judge.features(images)


def _adherence(read: _Read, real: Real, prompts: Sequence[str] | None, labels: np.ndarray | None) -> dict[str, Any]:
    """Return the sections `adherence` (where classes were asked for), `best`, `worst`."""
    if labels is None or not (np.asarray(labels) >= 0).any():
        return {}
    labels, judge = np.asarray(labels), read.judge
    (_, probabilities), (_, real_probabilities) = read.read
    result: dict[str, Any] = {"adherence": adherence(probabilities, labels, judge.class_names, prompts=prompts)}
    if real.labels is not None and (real.labels >= 0).any():
        known = real.labels >= 0
        hits = real_probabilities[known].argmax(1) == real.labels[known]
        result["adherence"]["real"] = share(hits)  # what a perfect generator would reach
    known_rows = np.flatnonzero(labels >= 0)
    target = probabilities[known_rows, labels[known_rows]]
    order = known_rows[np.argsort(target, kind="stable")]

    def entry(row: int) -> dict[str, Any]:
        return {
            "image": int(row),
            "asked": judge.class_names[labels[row]],
            "found": judge.class_names[int(probabilities[row].argmax())],
            "probability": round(float(probabilities[row, labels[row]]), 4),
        }

    result["worst"] = [entry(row) for row in order[:20]]
    result["best"] = [entry(row) for row in order[::-1][:20]]
    return result


def _distances(
    images: np.ndarray,
    mine: np.ndarray,
    labels: np.ndarray | None,
    real: Real,
    count: int,
    networks: Sequence[FeatureNetwork],
    cache: FeatureCache,
    intervals: bool,
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return ({network: measures}, [{name, sha256}]); the control network is added to those given."""
    theirs = spread(count, len(real.references))
    floor, floor_rows = _floor(real, count, theirs)
    noise = np.random.default_rng(0).integers(0, 256, (count, *images.shape[1:]), dtype=np.uint8)
    strata = (None if labels is None else np.asarray(labels)[mine], None if real.labels is None else real.labels[theirs])
    result, used = {}, []
    for network in (*networks, RandomFeatures(images.shape[1])):
        made = Features(network.features(images), network.name, network.sha256)
        result[network.name] = measure(
            _rows(made, mine),
            _rows(cache.features(network, real.references), theirs),
            floor=cache.features(network, floor[floor_rows]) if floor is not None else None,
            noise=cache.features(network, noise),
            labels=strata,
            intervals=intervals,
        )
        used.append({"name": network.name, "sha256": network.sha256})
    return result, used


def _floor(real: Real, count: int, theirs: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the real images of the floor and which of them: from `floor`, or references that are not compared."""
    if real.floor is not None and len(real.floor) >= count:
        return real.floor, spread(count, len(real.floor))
    rest = np.setdiff1d(np.arange(len(real.references)), theirs)
    if len(rest) >= count:
        return real.references, rest[spread(count, len(rest))]
    return None, np.empty(0, np.int64)


def _rows(features: Features, rows: np.ndarray) -> Features:
    return Features(features.values[rows], features.network, features.sha256)


def _memorisation(images: np.ndarray, real: Real) -> dict[str, Any] | None:
    """Return `memorisation` in pixels; None where the training set or other real images are not known."""
    if real.train is None or real.other is None or len(real.train) == 0 or len(real.other) == 0:
        return None

    def flat(values: np.ndarray, most: int | None = None) -> np.ndarray:
        values = values if most is None or len(values) <= most else values[spread(most, len(values))]
        return values.reshape(len(values), -1).astype(np.float32) / 255

    return memorisation(flat(images), flat(real.train), flat(real.references, MOST_NEIGHBOURS), flat(real.other, MOST_NEIGHBOURS))


def _digest(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
