"""Judging a run, or a folder of pictures: prompts -> pictures -> `evaluate` -> RUN/evals/<name>.json and
RUN/report.html.

`compare.py` puts several such files side by side, `sweep.py` varies the sampling. Next: `report.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from limner.errors import ConfigError, EvaluationError
from limner.evaluation import pictures
from limner.evaluation.distances import frechet_to_statistics, read_statistics
from limner.evaluation.evaluate import Real, evaluate
from limner.evaluation.features import Clip, FeatureCache, FeatureNetwork, Inception
from limner.evaluation.judge import Judge
from limner.evaluation.subject import Made, Progress, Subject, make, prompts_for, subject
from limner.files import write_text
from limner.generate import changed
from limner.sampling import Sampling
from limner.training.tracking import environment


def evaluate_run(
    run: Path,
    *,
    num: int = 1000,
    seeds: int = 1,
    seed: int = 0,
    name: str | None = None,
    cache: Path = Path("cache"),
    sampling: dict[str, Any] | None = None,
    judge: Path | None = None,
    inception: bool | Path = False,
    clip: str | None = None,
    statistics: Path | None = None,
    precision: str = "auto",
    batch_size: int = 100,
    report: bool = True,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Sample `num` pictures of a run, score them, write RUN/evals/<name>.json (and report.html), and return the scores.

    Arguments:
        seeds: how many sets of pictures, from other seeds; the spread of the scores over them is stated.
        seed: of the first picture. name: of the file; by default what was sampled and how.
        sampling: what differs from the model's defaults: steps, guidance, sampler, ...
        judge: folder of another judge. inception, clip: further feature networks. statistics: published ones, for
            Inception.
        report: whether RUN/report.html is written. command: what to type to do it again.
        progress: called as progress(what, share done).
    Raises: EvaluationError, and whatever loading, data and sampling raise. Nothing is written before all is computed.
    """
    if num < 2 or seeds < 1:
        raise EvaluationError(f"--num {num} --seeds {seeds}: at least 2 pictures and 1 set of seeds.")
    networks: list[FeatureNetwork] = []
    if inception or statistics:
        networks.append(Inception(inception if isinstance(inception, Path) else None))
    scorer = Clip(clip) if clip else None
    if scorer:
        networks.append(scorer)
    who = subject(run, cache=cache, judge=judge, precision=precision, progress=progress)
    way = changed(who.model.config.sample, sampling or {})
    prompts, labels = prompts_for(who.store, num)
    compared = min(num, len(who.real.references))
    results, first = [], None
    for turn in range(seeds):
        made = make(who.model, prompts, labels, way, seed=seed + turn * num, batch_size=batch_size, progress=progress)
        first = first or made
        if progress:
            progress("scoring", turn / seeds)
        results.append(
            evaluate(
                made.images,
                who.real,
                prompts=prompts,
                labels=labels,
                judge=who.judge,
                networks=networks,
                clip=scorer,
                verify=who.verify,
                compared=compared,
                intervals=turn == 0,
                cache=who.cache,
                provenance=provenance(who, made, command=command),
            )
        )
    assert first is not None
    result = results[0]
    if statistics:
        made_features = who.cache.features(networks[0], first.images)
        value = frechet_to_statistics(made_features, *read_statistics(statistics))
        result["published"] = {
            "file": Path(statistics).name,
            "frechet": value,
            "images": num,
            "network": networks[0].name,
        }
    result["spread"] = spread_over_seeds(results)
    result["heldout"] = heldout(run)
    result["name"] = name or default_name(way, num)
    path = run / "evals" / f"{file_name(result['name'])}.json"
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False))
    if report:
        from limner.evaluation.showing import show  # matplotlib and GIFs are only needed here

        show(who, first, result)
    return result


def spread_over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return {score: {values, mean, deviation}} over sets of sampling seeds; deviation is None for one set."""
    rows: dict[str, list[float]] = {}
    for result in results:
        if "adherence" in result:
            rows.setdefault("accuracy", []).append(result["adherence"]["accuracy"]["value"])
        for network, measures in result["distances"].items():
            for key in ("frechet", "recall"):
                rows.setdefault(f"{network}.{key}", []).append(measures[key]["value"])
        if result.get("memorisation"):
            rows.setdefault("memorisation", []).append(result["memorisation"]["probability"]["value"])
    return {
        key: {
            "values": values,
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for key, values in rows.items()
    }


def provenance(who: Subject, made: Made, *, command: str = "") -> dict[str, Any]:
    """Return what has to be known about pictures of a run to make them, and their score, again."""
    model = who.model
    facts = model.config.provenance
    return {
        "model": {
            "sha256": model.sha256,
            "ema": facts.get("ema"),
            "precision": model.precision,
            "recipe": facts.get("recipe"),
            "images_trained": facts.get("images"),
            "seconds_trained": facts.get("seconds"),
        },
        "run": who.run.name,
        "sampling": made.sampling.model_dump(mode="json"),
        "network_evaluations": round(made.evaluations, 3),
        "seeds": {"first": made.seeds.start, "num": len(made.seeds)},
        "prompts": {"num": len(made.prompts), "wordings": len(set(made.prompts)), "classes": "in turn, evenly"},
        "sampling_seconds": round(made.seconds, 3),
        "images_per_second": round(len(made.images) / made.seconds, 1),
        "resize": "none",
        "range": "[-1, 1] inside, uint8 0 to 255 when scored",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": environment(),
        "command": command,
    }


def heldout(run: Path) -> dict[str, Any] | None:
    """Return the run's last held-out loss {loss, bins, images}, on fixed triples of image, noise and time; None without
    one."""
    from limner.files import read_metrics

    last = None
    for line in read_metrics(Path(run) / "metrics.jsonl"):
        if "heldout_loss" in line:
            last = {"loss": line["heldout_loss"], "bins": line.get("heldout_bins"), "images": line.get("images")}
    return last


def default_name(sampling: Sampling, num: int) -> str:
    """Return a name that tells what was sampled and how, such as `ab2-10-w2-n1000`."""
    return f"{sampling.sampler}-{sampling.steps}-w{sampling.guidance:g}-n{num}"


def file_name(name: str) -> str:
    """Return `name` if it can name a file as it is. Raises: ConfigError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError(f"--name {name!r}: letters, digits, point, dash and underscore, at most 100.")
    return name


def evaluate_folders(
    images: Path,
    references: Path,
    *,
    num: int | None = None,
    size: int | None = None,
    judge: Path | None = None,
    inception: bool | Path = False,
    clip: str | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Return every distance between two folders of pictures, and write it to `out` if given.

    Arguments:
        num: pictures taken of each, evenly spread over their sorted names; None demands equal counts.
        size: side to resize both to. judge: folder of a judge, for its features.
    Raises: EvaluationError for missing, empty and unequal folders and for unreadable pictures, each by name.
    """
    networks: list[FeatureNetwork] = [Inception(inception if isinstance(inception, Path) else None)] if inception else []
    networks += [Clip(clip)] if clip else []
    paths, real_paths = pictures.find(images), pictures.find(references)
    if num is None and len(paths) != len(real_paths):
        most = min(len(paths), len(real_paths))
        raise EvaluationError(
            f"{images} has {len(paths)} pictures, {references} has {len(real_paths)}: distances are "
            "biased by the count.\n"
            f"Take as many of each: --num {most}"
        )
    made = pictures.read(paths, size=size)
    real = pictures.read(real_paths, size=size, channels=made.shape[1])
    result = evaluate(
        made,
        Real(real),
        judge=Judge.load(judge) if judge else None,
        networks=networks,
        compared=num,
        cache=FeatureCache(cache / "features" if cache else None),
        provenance={
            "images": str(images),
            "resize": f"bicubic, antialiased, to {size}x{size}" if size else "none",
            "range": "uint8 0 to 255",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": environment(),
            "command": command,
        },
    )
    if out:
        write_text(Path(out), json.dumps(result, indent=1, ensure_ascii=False))
    return result
