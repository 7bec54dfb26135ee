"""Several evaluations side by side. What is not comparable is shown but not ranked, and the reason is said. Next:
`sweep.py`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import EvaluationError
from limner.evaluation.measures import HIGHER_IS_BETTER


@dataclass(frozen=True)
class Comparison:
    """What `limner compare` prints.

    Arguments:
        columns: names of the scores. rows: [{name, <column>: {value, low, high} or None}] in the order given.
        refusals: {column: why it is not ranked}; empty where all are comparable.
        ranking: {column: names, the best first}, of the columns that are not refused; ties says which neighbours'
            intervals overlap, so that their order says little.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    refusals: dict[str, str]
    ranking: dict[str, list[str]]
    ties: dict[str, list[tuple[str, str]]]


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return (name, evaluation) of a JSON file, or of the newest of RUN/evals/.

    Raises: EvaluationError when there is none, or it is something else.
    """
    path = Path(path)
    if path.is_dir():
        files = [each for each in (path / "evals").glob("*.json") if not each.name.endswith("-sweep.json")]
        found = sorted(files, key=lambda each: (each.stat().st_mtime_ns, each.name))
        if not found:
            raise EvaluationError(f"{path}: no evaluation in it (evals/*.json). Make one: limner eval {path}")
        name, path = path.name, found[-1]
    else:
        name = path.parent.parent.name + "/" + path.stem if path.parent.name == "evals" else path.stem
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: not an evaluation in JSON: {error}") from error
    if not isinstance(value, dict) or not {"counts", "distances", "provenance"} <= value.keys():
        raise EvaluationError(f"{path}: not an evaluation (no counts, distances, provenance). Make one: limner eval RUN")
    return name, value


def compare(paths: Sequence[Path]) -> Comparison:
    """Return evaluations side by side, ranked by each score that means the same in all of them.

    Raises: EvaluationError for fewer than two, or files that are no evaluations.
    """
    if len(paths) < 2:
        raise EvaluationError("comparing needs two or more runs or evaluation files.")
    found = [read(path) for path in paths]
    names = _distinct([name for name, _ in found])
    evaluations = dict(zip(names, [value for _, value in found], strict=True))
    columns = list(dict.fromkeys(column for value in evaluations.values() for column in _scores(value)))
    rows: list[dict[str, Any]] = [
        {"name": name} | {column: _scores(value).get(column) for column in columns} for name, value in evaluations.items()
    ]
    refusals = {column: why for column in columns if (why := _refusal(column, evaluations))}
    ranking, ties = {}, {}
    for column in columns:
        if column not in refusals:
            up = column.rpartition(".")[2] in (*HIGHER_IS_BETTER, "accuracy", "clip_score")
            order = sorted(rows, key=lambda row: row[column]["value"] * (-1 if up else 1))
            ranking[column] = [row["name"] for row in order]
            ties[column] = [
                (a["name"], b["name"])
                for a, b in itertools.pairwise(order)
                if a[column]["low"] <= b[column]["high"] and b[column]["low"] <= a[column]["high"]
            ]
    return Comparison(columns, rows, refusals, ranking, ties)


def _scores(value: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return {column: {value, low, high}} of one evaluation."""
    found = {}
    if "adherence" in value:
        found["accuracy"] = value["adherence"]["accuracy"]
    if "clip_score" in value:
        found["clip_score"] = value["clip_score"]
    for network, measures in value["distances"].items():
        for key, entry in measures.items():
            found[f"{network}.{key}"] = entry
    return {
        key: {
            "value": entry["value"],
            "low": entry.get("interval", [entry["value"]])[0],
            "high": entry.get("interval", [entry["value"]])[-1],
        }
        for key, entry in found.items()
    }


def _refusal(column: str, evaluations: dict[str, dict[str, Any]]) -> str:
    """Return why a score may not be ranked over these evaluations; "" when it may."""
    missing = [name for name, value in evaluations.items() if column not in _scores(value)]
    if missing:
        return f"{' and '.join(missing)} {'have' if len(missing) > 1 else 'has'} no such score"
    conditions = _adherence_conditions if column == "accuracy" else _distance_conditions
    if column == "clip_score":
        conditions = _clip_conditions
    said = {name: conditions(value, column.rpartition(".")[0]) for name, value in evaluations.items()}
    first_name, first = next(iter(said.items()))
    for name, conditions_of in said.items():
        for what, there in conditions_of.items():
            if there != first[what]:
                return f"{what}: {_short(first[what])} in {first_name}, {_short(there)} in {name}"
    return ""


def _distance_conditions(value: dict[str, Any], network: str) -> dict[str, Any]:
    """What has to be the same for distances to mean the same."""
    hashes = {entry["name"]: entry["sha256"] for entry in value["provenance"]["features"]}
    return {
        "unequal counts": value["counts"]["compared"],
        "other references": value["provenance"]["references"]["sha256"],
        "different feature networks": hashes.get(network),
        "other image sizes": value["provenance"]["shape"],
        "other resizing": value["provenance"].get("resize"),
    }


def _adherence_conditions(value: dict[str, Any], network: str) -> dict[str, Any]:
    """What has to be the same for adherence to mean the same."""
    judge = value["provenance"].get("judge") or {}
    return {
        "different judges": judge.get("sha256"),
        "unequal counts": value["adherence"]["accuracy"]["num"],
        "other wordings": (value["provenance"].get("prompts") or {}).get("wordings"),
    }


def _clip_conditions(value: dict[str, Any], network: str) -> dict[str, Any]:
    """What has to be the same for a CLIP score to mean the same."""
    return {"different feature networks": value["clip_score"]["sha256"], "unequal counts": value["counts"]["images"]}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _distinct(names: list[str]) -> list[str]:
    """Return the names, numbered where they repeat."""
    return [name if names.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(names)]
