"""One run sampled in many ways: adherence against distance, and the best point. `limner sweep RUN guidance=0,1,2
steps=4,8`.

All points share prompts and seeds, so that their differences are the sampling's. Next: `report.py`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import yaml

from limner.errors import ConfigError, nearest
from limner.evaluation.evaluate import evaluate
from limner.evaluation.run import file_name, provenance
from limner.evaluation.subject import Progress, make, prompts_for, subject
from limner.files import write_text
from limner.generate import changed
from limner.sampling import Sampling
from limner.snapshots import put_ema

MOST_POINTS = 400


def parse_grid(texts: list[str]) -> dict[str, list[Any]]:
    """Return {field: values} of `field=value,value,...`; fields are those of `Sampling`, and `ema`.

    Raises: ConfigError naming the nearest field, or for values that a field does not take.
    """
    allowed = [*Sampling.model_fields, "ema"]
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, sign, values = text.partition("=")
        if not sign or not values:
            raise ConfigError(f"{text!r}: a sweep is written field=value,value,..., such as guidance=0,1,2.")
        if key not in allowed:
            raise ConfigError(f"sweep: there is no field {key!r}.{nearest(key, allowed)} Allowed: {', '.join(allowed)}.")
        try:
            grid[key] = [yaml.safe_load(value) for value in values.split(",")]
        except yaml.YAMLError as error:
            raise ConfigError(f"{text!r}: the values are numbers or words, parted by commas.") from error
    points = 1
    for entries in grid.values():
        points *= len(entries)
    if not grid or points > MOST_POINTS:
        raise ConfigError(f"sweep: {points if grid else 0} points; between 1 and {MOST_POINTS}.")
    return grid


def sweep(
    run: Path,
    grid: dict[str, list[Any]],
    *,
    num: int = 500,
    seed: int = 0,
    name: str = "sweep",
    cache: Path = Path("cache"),
    keep_accuracy: float = 0.99,
    batch_size: int = 100,
    precision: str = "auto",
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every point of a grid; write RUN/evals/<name>-sweep.json and .png; return {points, best, ...}.

    The best point is the one of least Fréchet distance among those whose accuracy is at least `keep_accuracy` times the
    highest, since guidance buys accuracy with distance. It was chosen on these pictures: judge it again with `limner
    eval`, other seeds.

    Raises: ConfigError for a bad grid, before anything is sampled; whatever `evaluate` raises.
    """
    ways = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    who = subject(run, cache=cache, precision=precision, progress=progress)
    samplings = [changed(who.model.config.sample, {k: v for k, v in way.items() if k != "ema"}) for way in ways]
    prompts, labels = prompts_for(who.store, num)
    compared = min(num, len(who.real.references))
    points = []
    for turn, (way, sampling) in enumerate(zip(ways, samplings, strict=True)):
        if "ema" in way:
            put_ema(who.model, run, str(way["ema"]))
        made = make(who.model, prompts, labels, sampling, seed=seed, batch_size=batch_size)
        result = evaluate(
            made.images, who.real, labels=labels, judge=who.judge, compared=compared, intervals=False, cache=who.cache
        )
        points.append(way | _point(result) | {"network_evaluations": made.evaluations, "seconds": round(made.seconds, 2)})
        if progress:
            progress("sweeping", (turn + 1) / len(ways))
    facts = provenance(who, made, command=command) | {"judge": who.judge.describe() if who.judge else None}
    document = {
        "grid": grid,
        "points": points,
        "best": best(points, keep_accuracy),
        "counts": {"images": num, "compared": compared},
        "floor": _floor(result),
        "note": "all points share prompts and seeds; the best was chosen on them: judge it again with other seeds",
        "provenance": {key: value for key, value in facts.items() if key not in ("sampling", "network_evaluations")},
    }
    path = Path(run) / "evals" / f"{file_name(name)}-sweep.json"
    write_text(path, json.dumps(document, indent=1))
    _draw(document, path.with_suffix(".png"))
    return document


def best(points: list[dict[str, Any]], keep_accuracy: float) -> dict[str, Any]:
    """Return the point of least Fréchet distance among those of at least `keep_accuracy` times the highest accuracy."""
    known = [point["accuracy"] for point in points if point["accuracy"] is not None]
    least = keep_accuracy * max(known) if known else 0.0
    good = [point for point in points if (point["accuracy"] or 0.0) >= least]
    return min(good, key=lambda point: point["frechet"])


def _point(result: dict[str, Any]) -> dict[str, Any]:
    measures = next(iter(result["distances"].values()))  # the judge's where there is one, else the control's
    accuracy = result["adherence"]["accuracy"]["value"] if "adherence" in result else None
    return {"accuracy": accuracy} | {key: measures[key]["value"] for key in ("frechet", "precision", "recall", "coverage")}


def _floor(result: dict[str, Any]) -> float | None:
    return next(iter(result["distances"].values()))["frechet"].get("floor")


def _draw(document: dict[str, Any], path: Path) -> None:
    """Draw accuracy against distance, one line for each setting of all fields but the first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first, *others = document["grid"]
    for values, group in itertools.groupby(
        sorted(document["points"], key=lambda p: [str(p[o]) for o in others]), key=lambda p: [p[o] for o in others]
    ):
        line = sorted(group, key=lambda p: (isinstance(p[first], str), p[first]))
        label = ", ".join(f"{o} {v}" for o, v in zip(others, values, strict=True)) or None
        axes.plot([p["frechet"] for p in line], [p["accuracy"] or 0 for p in line], "o-", label=label)
        for point in line:
            axes.annotate(
                f"{point[first]}",
                (point["frechet"], point["accuracy"] or 0),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=8,
            )
    chosen = document["best"]
    axes.plot(chosen["frechet"], chosen["accuracy"] or 0, "*", markersize=16, color="black", label="best", zorder=0)
    if document["floor"] is not None:
        axes.axvline(document["floor"], linestyle=":", color="grey", label="real against real")
    axes.set(
        xlabel=f"Fréchet distance, {document['counts']['compared']} against as many",
        ylabel="prompt adherence",
        title=f"{first} along the lines",
    )
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
