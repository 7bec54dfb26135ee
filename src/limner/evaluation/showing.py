"""Gathers what `report.html` shows of a run: pictures of progress, a trajectory, the closest pairs. Next:
`compare.py`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from limner.evaluation.page import sheet
from limner.evaluation.report import write_report
from limner.evaluation.sections import Pictures
from limner.files import read_metrics
from limner.generate import trajectory
from limner.model import Model
from limner.sampling import Sampling

if TYPE_CHECKING:
    from limner.evaluation.subject import Made, Subject

MOST_PROGRESS = 9


def show(who: Subject, made: Made, evaluation: dict[str, Any]) -> Path:
    """Write RUN/report.html of an evaluation and return where it is."""
    pairs = []
    if evaluation.get("memorisation") and who.real.train is not None:
        pairs = [(made.images[entry["image"]], who.real.train[entry["train"]]) for entry in evaluation["memorisation"]["closest"]]
    return write_report(
        who.run,
        evaluation,
        Pictures(
            images=made.images,
            prompts=made.prompts,
            labels=made.labels,
            closest=pairs,
            progress=progress_of(who.run),
            trajectory=moving(who.model, made.prompts[:10], list(made.seeds[:10]), made.sampling),
            steps=made.sampling.steps,
            metrics=list(read_metrics(who.run / "metrics.jsonl")),
        ),
    )


def progress_of(run: Path) -> list[tuple[str, bytes]]:
    """Return (name, PNG bytes) of RUN/samples/step-*.png, oldest first, at most nine evenly chosen."""
    found = sorted((run / "samples").glob("step-*.png"))
    if len(found) > MOST_PROGRESS:
        found = [found[round(i * (len(found) - 1) / (MOST_PROGRESS - 1))] for i in range(MOST_PROGRESS)]
    return [(f"after {int(path.stem[5:]):,} steps" if path.stem[5:].isdigit() else path.stem, path.read_bytes()) for path in found]


def moving(model: Model, prompts: list[str], seeds: list[int], sampling: Sampling, *, scale: int = 2) -> bytes:
    """Return a GIF of a few pictures on their way: the state x above, what the model takes for the data x0 below."""
    frames = []
    for step in trajectory(model, prompts, seeds, sampling):
        states, guesses = (np.asarray(model.codec.decode(value).cpu().numpy()) for value in (step.x, step.x0))
        frame = sheet([*states, *guesses], columns=len(prompts)).convert("RGB")
        frames.append(frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.NEAREST))
    buffer = io.BytesIO()
    durations = [160] * (len(frames) - 1) + [1800]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()
