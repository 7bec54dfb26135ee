"""What is judged: a run with its model, data and judge, its prompts, the pictures made of them. Next: `run.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from limner.errors import EvaluationError
from limner.evaluation.adherence import Verify
from limner.evaluation.evaluate import Real
from limner.evaluation.features import FeatureCache
from limner.evaluation.judge import Judge
from limner.evaluation.judges import judge_for
from limner.generate import generate
from limner.model import Model, load
from limner.recipe import Recipe, find
from limner.sampling import Sampling

Progress = Callable[[str, float], None]
MOST_MEMORISED = 10_000  # training images that nearest neighbours are looked for among


@dataclass
class Subject:
    """A run that is judged: its model, its data, its judge."""

    run: Path
    recipe: Recipe
    model: Model
    store: Any
    judge: Judge | None
    real: Real
    verify: Verify | None
    cache: FeatureCache


@dataclass(frozen=True)
class Made:
    """Pictures [N, C, H, W] uint8 with what was asked for, and what making them took."""

    images: np.ndarray
    prompts: list[str]
    labels: np.ndarray
    seeds: range
    sampling: Sampling
    seconds: float
    evaluations: float


def subject(
    run: Path,
    *,
    cache: Path = Path("cache"),
    judge: Path | None = None,
    precision: str = "auto",
    progress: Progress | None = None,
) -> Subject:
    """Return a run with everything that is needed to judge it; the judge is trained if it is not in the cache.

    Raises: CheckpointError, ConfigError, DataError for a run that is not one; EvaluationError for data without a test
        split.
    """
    run = Path(run)
    model = load(run, precision=precision)
    recipe = find(str(run))
    store = recipe.data.open(Path(cache))  # type: ignore[attr-defined]
    test, train, other = store.split("test"), store.split("train"), store.split("judge")
    if len(test) < 2:
        raise EvaluationError(f"{run}: its data have {len(test)} test images to be judged by; raise data.test (0.15).")
    told = (lambda share, loss: progress("training the judge", share)) if progress else None
    chosen = Judge.load(judge) if judge else judge_for(store, Path(cache), progress=told)
    most = train[:: -(-len(train) // MOST_MEMORISED)]
    trained_on = np.asarray(store.images[most])
    references = np.asarray(store.images[test])
    kept = np.asarray(store.images[other]) if len(other) else None
    real = Real(references, np.asarray(store.labels)[test], trained_on, trained_on, kept, store.fingerprint)
    verify = None
    if recipe.data.kind == "shapes":  # type: ignore[attr-defined]
        from limner.data.verify import verify as check_scene  # only there are pictures read back exactly

        verify = check_scene
    return Subject(run, recipe, model, store, chosen, real, verify, FeatureCache(Path(cache) / "features"))


def prompts_for(store: Any, num: int) -> tuple[list[str], np.ndarray]:
    """Return `num` prompts and their classes [num] (-1: none's): classes in turn, each in all its wordings in turn.

    Data without captions of classes ask for the captions of their test images, evenly spread.
    """
    wordings = [store.class_captions(label) for label in range(len(store.class_names))]
    if wordings and all(wordings):
        labels = np.arange(num) % len(wordings)
        prompts = [wordings[label][(i // len(wordings)) % len(wordings[label])] for i, label in enumerate(labels)]
        return prompts, labels
    test = store.split("test")
    rows = test[(np.arange(num) * len(test)) // num] if len(test) >= num else test[np.arange(num) % len(test)]
    prompts = []
    for turn, row in enumerate(rows):
        captions = store.captions_of(int(row))
        prompts.append(captions[turn % len(captions)])
    return prompts, np.array([-1 if (found := store.label_of_prompt(p)) is None else found for p in prompts])


def make(
    model: Model,
    prompts: list[str],
    labels: np.ndarray,
    sampling: Sampling,
    *,
    seed: int = 0,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> Made:
    """Return the pictures of prompts with seeds seed, seed + 1, ...; network evaluations an image are counted, not
    computed.

    Raises: EvaluationError when the model gives values that are no pictures.
    """
    counted = 0

    def count(module: Any, args: tuple[Any, ...]) -> None:
        nonlocal counted
        counted += len(args[0])

    seeds = range(seed, seed + len(prompts))
    handle = model.network.register_forward_pre_hook(count)
    start, batches, done = perf_counter(), [], 0
    try:
        for batch in generate(model, prompts, seeds, sampling, batch_size=batch_size):
            batches.append(batch)
            done += len(batch)
            if progress:
                progress("sampling", done / len(prompts))
    finally:
        handle.remove()
    images = np.concatenate(batches)
    return Made(images, prompts, labels, seeds, sampling, perf_counter() - start, counted / len(prompts))
