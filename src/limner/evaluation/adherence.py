"""Does the picture show what was asked for? By a judge's classes, by CLIP's cosine, or by an exact verifier. Next:
`memorisation.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from limner.errors import EvaluationError
from limner.evaluation.features import Clip
from limner.evaluation.intervals import bootstrap_mean, wilson

Verify = Callable[[np.ndarray, str], dict[str, bool]]


def share(hits: np.ndarray) -> dict[str, Any]:
    """Return {value, interval, num} of a row of hits and misses [N] bool."""
    return {"value": float(np.mean(hits)), "interval": list(wilson(int(np.sum(hits)), len(hits))), "num": len(hits)}


def adherence(
    probabilities: np.ndarray, asked: np.ndarray, class_names: Sequence[str], *, prompts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return what a judge found of what was asked.

    Arguments:
        probabilities: [N, K] of the judge. asked: [N] class of each prompt, -1 where a prompt is no class's (left out).
        prompts: the wordings, to tell accuracy by wording.
    Returns: `accuracy` {value, interval, num}, `mean_probability` of the class asked for {value, interval}, `confusion`
        [K][K] (asked, found), `per_class` [K] {name, accuracy, num}, `per_prompt` {wording: {accuracy, num}}.
    Raises: EvaluationError when counts or classes do not fit, or no prompt is of a class.
    """
    probabilities, asked = np.asarray(probabilities, np.float64), np.asarray(asked)
    num_classes = len(class_names)
    if probabilities.shape != (len(asked), num_classes):
        raise EvaluationError(f"{len(asked)} prompts of {num_classes} classes, but probabilities {list(probabilities.shape)}.")
    if asked.size and int(asked.max()) >= num_classes:
        raise EvaluationError(f"class {int(asked.max())} was asked for, and the judge knows {num_classes} classes.")
    known = asked >= 0
    if not known.any():
        raise EvaluationError("no prompt asks for a class that the judge knows.")
    rows, target = probabilities[known], asked[known]
    found = rows.argmax(axis=1)
    hits = found == target
    of_target = rows[np.arange(len(rows)), target]
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (target, found), 1)
    per_class = [
        {"name": name, "num": int(row.sum()), "accuracy": float(row[index] / row.sum()) if row.sum() else None}
        for index, (name, row) in enumerate(zip(class_names, confusion, strict=True))
    ]
    result: dict[str, Any] = {
        "accuracy": share(hits),
        "mean_probability": {"value": float(of_target.mean()), "interval": list(bootstrap_mean(of_target))},
        "confusion": confusion.tolist(),
        "per_class": per_class,
    }
    if prompts is not None:
        by_prompt: dict[str, list[bool]] = defaultdict(list)
        for prompt, hit in zip(np.asarray(prompts, dtype=object)[known], hits, strict=True):
            by_prompt[prompt].append(bool(hit))
        result["per_prompt"] = {
            prompt: {"accuracy": float(np.mean(each)), "num": len(each)} for prompt, each in sorted(by_prompt.items())
        }
    return result


def verified(verify: Verify, images: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
    """Return {property: {value, interval, num}} of an exact verifier; a property counts where the prompt asks for it.

    Raises: EvaluationError for unequal or no counts.
    """
    if len(images) != len(prompts) or len(prompts) == 0:
        raise EvaluationError(f"{len(images)} images for {len(prompts)} prompts; each image needs its own.")
    hits: dict[str, list[bool]] = defaultdict(list)
    for image, prompt in zip(images, prompts, strict=True):
        for key, value in verify(image, prompt).items():
            hits[key].append(bool(value))
    return {key: share(np.array(values)) for key, values in hits.items()}


def clip_score(clip: Clip, images: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
    """Return the mean CLIP score {value, interval, shuffled}; `shuffled` is the score when captions go to other images.

    A score that is not well above `shuffled` says nothing about prompts.
    """
    scores = clip.scores(images, list(prompts))
    order = np.roll(np.arange(len(prompts)), max(1, len(prompts) // 2))
    other = clip.scores(images, [prompts[int(index)] for index in order])
    return {
        "value": float(scores.mean()),
        "interval": list(bootstrap_mean(scores)),
        "shuffled": float(other.mean()),
        "network": clip.name,
        "sha256": clip.sha256,
    }
