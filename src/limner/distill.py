"""What `limner distill` does: a run in, a run out, whose model needs 1, 2 or 4 network evaluations a picture.

The new run's folder has the teacher's recipe with the student's way of sampling (so that `limner eval` knows the data),
the model, metrics, and what it was made from. It is written whole at the end, or not at all. How it is done:
`distilling/paths.py` and `distilling/fit.py`; what it reaches: `docs/few-steps.md`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from limner.distilling.fit import Budget, Distilled, Options, distill
from limner.distilling.paths import check_steps
from limner.errors import CheckpointError, ConfigError, LimnerError
from limner.files import publish
from limner.model import Model, load
from limner.recipe import Recipe, find, to_yaml
from limner.training.devices import accelerator
from limner.training.tracking import environment

__all__ = ["Budget", "Distilled", "Options", "distill", "distill_command"]

LR_SHARE = 0.25
"""The student's learning rate as a part of its teacher's."""


def distill_command(
    run: Path,
    *,
    steps: int = 2,
    seconds: float | None = None,
    images: int | None = None,
    guidance: float | None = None,
    out: Path,
    seed: int = 0,
    cache: Path = Path("cache"),
    precision: str = "auto",
    say: Callable[[str], None] = lambda words: None,
) -> Path:
    """Distil a run's model into a new run folder `out`; return it.

    Arguments:
        seconds, images: the budget; by default the seconds that the teacher's own training took.
        guidance: the scale that is folded in; by default the model's own.
        cache: of data, only opened where model.json does not name all captions.
        precision: auto, fp32 or bf16. say: told about progress.
    Raises: CheckpointError for a folder without a model; ConfigError for a taken `out`, steps not in (1, 2, 4), two
        budgets, or a model that is a student already; NumericalError when the loss is not finite. Nothing is written
        then.
    """
    run, out = Path(run), Path(out)
    check_steps(steps)
    _refuse_taken(out)
    if seconds is not None or images is not None:
        Budget(seconds, images)
    teacher = load(run, precision=precision)
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run}: this is a model without its run's config.yaml. Give the run's folder.")
    recipe = find(str(run))
    if seconds is None and images is None:
        seconds = teacher.config.provenance.get("seconds")
        if not seconds:
            raise ConfigError(f"{run} does not say how long it was trained; give a budget: --seconds 120.")
    train = recipe.train
    teacher.to(accelerator().device)
    done = distill(
        teacher,
        _prompts(teacher, recipe, cache, say),
        steps=steps,
        budget=Budget(seconds, images),
        guidance=guidance,
        options=Options(batch=train.batch, lr=train.lr * LR_SHARE, betas=train.betas, clip=train.clip, seed=seed),
        say=say,
    )
    _write(done, recipe, out)
    say(f"model: {out / 'model'}    next: limner sample {out} PROMPT   limner eval {out}")
    return out


def _refuse_taken(out: Path) -> None:
    """Raise ConfigError when `out` cannot become a new folder."""
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: there is something in this folder. Choose another.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, not a folder.")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"--out {out}: {above} cannot be written to. Choose another.")


def _prompts(teacher: Model, recipe: Recipe, cache: Path, say: Callable[[str], None]) -> list[str]:
    """Return every caption the teacher was trained on, or, with a word about it, its few examples if data are gone."""
    if teacher.config.labels:
        return list(teacher.config.labels)
    try:
        return recipe.data.open(cache).all_captions()  # type: ignore[attr-defined]
    except LimnerError as error:
        examples = list(teacher.config.captions)
        if not examples:
            raise
        say(f"the data cannot be opened ({str(error).splitlines()[0]}); only {len(examples)} captions are taught.")
        return examples


def _write(done: Distilled, recipe: Recipe, out: Path) -> None:
    """Write the student's run: recipe, model, metrics, and what it was made from."""
    student, versions = done.model, environment()
    own = recipe.model_copy(update={"sample": student.config.sample})
    student.config = student.config.model_copy(update={"provenance": student.config.provenance | versions})
    with publish(out) as folder:
        digest = student.save(folder / "model")
        documents = {
            "config.yaml": to_yaml(own),
            "env.json": json.dumps(versions | {"precision": student.precision}, indent=1),
            "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in done.metrics),
            "finished.json": json.dumps({"step": done.metrics[-1]["step"], **done.facts, "model": digest}, indent=1),
        }
        for name, text in documents.items():
            (folder / name).write_text(text, encoding="utf-8")
