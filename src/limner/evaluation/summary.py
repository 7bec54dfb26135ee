"""Scores as a few lines of text for the terminal: each with its floor, its count and its interval."""

from __future__ import annotations

from typing import Any

from limner.evaluation.compare import Comparison


def summary(result: dict[str, Any]) -> str:
    """Return an evaluation as text."""
    counts = result["counts"]
    lines = [f"{counts['images']} images; distances between {counts['compared']} made and {counts['compared']} real ones"]
    if "adherence" in result:
        found = result["adherence"]
        judge = result["provenance"].get("judge") or {}
        accuracy = judge.get("accuracy")
        right = f"   (the judge itself: {accuracy:.1%} on real images)" if accuracy else ""
        lines.append(f"prompt adherence      {_interval(found['accuracy'], percent=True)}{right}")
    if "verified" in result:
        lines += [f"{'read back: ' + key:<21} {_interval(value, percent=True)}" for key, value in result["verified"].items()]
    if "clip_score" in result:
        lines.append(f"CLIP score            {_interval(result['clip_score'])}")
    for network, measures in result["distances"].items():
        for name, value in measures.items():
            if isinstance(value, dict) and "value" in value:
                floor = value.get("floor")
                beside = f"   floor {_number(floor)}" if floor is not None else ""
                lines.append(f"{name + ' (' + network + ')':<40} {_interval(value)}{beside}")
    if result.get("memorisation"):
        found = result["memorisation"]
        lines.append(
            f"nearer to training than to held-out images: {_interval(found['probability'], percent=True)}"
            f"   (real images: {found['real']['value']:.1%})"
        )
    lines += [f"note: {note}" for note in result.get("warnings", [])]
    return "\n".join(lines)


def comparison(found: Comparison) -> str:
    """Return evaluations side by side; why a column is not ranked stands below."""
    width = max(len(row["name"]) for row in found.rows)
    lines = []
    for column in found.columns:
        lines.append(column)
        order = found.ranking.get(column)
        rows = sorted(found.rows, key=lambda row: order.index(row["name"])) if order else found.rows
        for place, row in enumerate(rows, 1):
            value = row[column]
            shown = "-" if value is None else f"{_number(value['value'])}  [{_number(value['low'])}, {_number(value['high'])}]"
            lines.append(f"  {str(place) + '.' if order else '  '} {row['name']:<{width}}  {shown}")
        if column in found.refusals:
            lines.append(f"     not ranked: {found.refusals[column]}")
        lines += [f"     {a} and {b}: their intervals overlap" for a, b in found.ties.get(column, [])]
    return "\n".join(lines)


def swept(result: dict[str, Any]) -> str:
    """Return the points of a sweep as a table, the best marked."""
    points = result["points"]
    keys = [key for key in points[0] if not isinstance(points[0][key], dict | list)]
    rows = [[_number(point[key]) for key in keys] for point in points]
    widths = [max(len(key), *(len(row[i]) for row in rows)) for i, key in enumerate(keys)]
    lines = ["  " + "  ".join(key.rjust(w) for key, w in zip(keys, widths, strict=True))]
    for point, row in zip(points, rows, strict=True):
        mark = "* " if all(result["best"].get(key) == point[key] for key in keys) else "  "
        lines.append(mark + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)))
    lines.append(f"* the best; {result['note']}")
    return "\n".join(lines)


def _interval(value: dict[str, Any], *, percent: bool = False) -> str:
    show = (lambda x: f"{x:.1%}") if percent else _number
    ends = value.get("interval")
    return show(value["value"]) + (f"  [{show(ends[0])}, {show(ends[1])}]" if ends else "")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
