"""`report.html`: a page that a person wants to look at: the numbers, the pictures behind them, and how to do it again.

Every headline number stands beside its floor and its count. The page is one file: no script, no network.
Next: `sections.py`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from limner.evaluation import page, sections
from limner.evaluation.page import number, percent
from limner.evaluation.sections import NAMES, Pictures
from limner.files import write_text


def write_report(run: Path, evaluation: dict[str, Any], pictures: Pictures, *, path: Path | None = None) -> Path:
    """Write the page of an evaluation to RUN/report.html (or `path`) and return where it is.

    Raises: CheckpointError when the disk refuses.
    """
    run = Path(run)
    path = path or run / "report.html"
    parts = [
        header(run.name, evaluation),
        sections.samples(evaluation, pictures),
        sections.adherence(evaluation),
        sections.extremes(evaluation, pictures),
        sections.distances(evaluation),
        sections.memorisation(evaluation, pictures),
        sections.training(evaluation, pictures),
        sections.progress(pictures),
        provenance(evaluation),
        commands(run, evaluation),
    ]
    write_text(path, page.page(f"{run.name} · limner", "\n".join(part for part in parts if part)))
    return path


def header(name: str, evaluation: dict[str, Any]) -> str:
    """Return the title, one sentence, the headline numbers and the warnings."""
    counts, facts = evaluation["counts"], evaluation["provenance"]
    wordings = (facts.get("prompts") or {}).get("wordings")
    asked = f" from {wordings} prompts" if wordings else ""
    judge = facts.get("judge")
    by = (
        f", and by a judge that is right about {percent(judge['accuracy'])} of {judge['tested_on']:,} real images"
        if judge and judge.get("accuracy") is not None
        else ""
    )
    deck = f"{counts['images']:,} pictures{asked}, judged by {counts['compared']:,} real images never seen in training{by}."
    cards = "".join(_card(*entry) for entry in _headline(evaluation))
    warnings = "".join(f"<p>{escape(text)}</p>" for text in evaluation.get("warnings", []))
    date = (facts.get("date") or "")[:10]
    return (
        f'<header><p class="over">limner · evaluation · {escape(date)}</p><h1>{escape(name)}</h1><p '
        f'class="deck">{escape(deck)}</p>'
        f'<div class="numbers">{cards}</div>{f"<div class=warnings>{warnings}</div>" if warnings else ""}</header>'
    )


def _headline(evaluation: dict[str, Any]) -> list[tuple[str, str, str, list[str]]]:
    """Return (what, value, unit, lines beside it) of the headline numbers that there are."""
    cards: list[tuple[str, str, str, list[str]]] = []
    if "adherence" in evaluation:
        found = evaluation["adherence"]
        low, high = found["accuracy"]["interval"]
        real = found.get("real")
        cards.append(
            (
                "Prompt adherence",
                f"{100 * found['accuracy']['value']:.1f}",
                "%",
                [f"{percent(low)} to {percent(high)}, {found['accuracy']['num']:,} pictures"]
                + ([f"real images: {percent(real['value'])}"] if real else []),
            )
        )
    network, measures = next(iter(evaluation["distances"].items()))
    count = evaluation["counts"]["compared"]
    for key in ("frechet", "recall"):
        entry = measures[key]
        lines = [
            f"real against real: {number(entry.get('floor'))}",
            f"noise against real: {number(entry.get('ceiling'))}",
        ]
        lines.append(f"{count:,} against {count:,}, {network}")
        cards.append((NAMES[key], number(entry["value"]), "", lines))
    memory = evaluation.get("memorisation")
    if memory:
        cards.append(
            (
                "Nearest to training images",
                f"{100 * memory['probability']['value']:.1f}",
                "%",
                [
                    f"real images: {percent(memory['real']['value'])}; ideal: 50 %",
                    f"copies: {percent(memory['copies']['value'])}",
                    f"{memory['count']:,} training, as many others",
                ],
            )
        )
    return cards


def _card(what: str, value: str, unit: str, lines: list[str]) -> str:
    unit = f"<small>{escape(unit)}</small>" if unit else ""
    beside = "<br>".join(escape(line) for line in lines)
    return (
        f'<div class="number"><div class="what">{escape(what)}</div><div class="value">{escape(value)}{unit}</div>'
        f'<div class="beside">{beside}</div></div>'
    )


def provenance(evaluation: dict[str, Any]) -> str:
    """Return the table of everything that has to be known about the numbers."""
    facts = evaluation["provenance"]
    model, judge = facts.get("model") or {}, facts.get("judge") or {}
    machine = facts.get("machine") or {}
    seeds, sampling = facts.get("seeds") or {}, facts.get("sampling") or {}
    seen = judge.get("seen") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (machine.get("versions") or {}).items() if version)
    spread = [
        f"{key}: {number(entry['mean'])} ± {number(entry['deviation'], 2)}"
        for key, entry in (evaluation.get("spread") or {}).items()
        if entry.get("deviation") is not None
    ]
    rows: list[tuple[str, Any]] = [
        ("weights", model.get("sha256")),
        ("averaged over (EMA width)", model.get("ema")),
        ("precision of the network", model.get("precision")),
        (
            "trained on",
            f"{model['images_trained']:,} images, {model['seconds_trained']:g} s" if model.get("images_trained") else None,
        ),
        ("sampling", ", ".join(f"{key} {value}" for key, value in sampling.items()) or None),
        (
            "network evaluations",
            f"{facts['network_evaluations']:g} a picture, both halves of guidance counted"
            if "network_evaluations" in facts
            else None,
        ),
        ("seeds", f"{seeds['first']} to {seeds['first'] + seeds['num'] - 1}" if seeds else None),
        (
            f"over {len(next(iter(evaluation['spread'].values()))['values'])} sets of seeds" if spread else "",
            "; ".join(spread) or None,
        ),
        ("counts", ", ".join(f"{value:,} {key}" for key, value in evaluation["counts"].items())),
        ("references", f"{facts['references']['count']:,} images, {facts['references']['sha256']}"),
        ("value range", facts.get("range")),
        ("resizing", facts.get("resize")),
        ("judge", f"{judge['name']}, {judge['sha256']}" if judge else None),
        (
            "judge learned from",
            f"{seen.get('num', 0):,} images of {', '.join(seen.get('splits', [])) or 'unknown'}, {judge.get('steps')} steps"
            if judge
            else None,
        ),
        *[(f"features {entry['name']}", entry["sha256"]) for entry in facts["features"]],
        ("versions", f"Python {machine.get('python')}, {versions}" if machine else None),
        ("machine", f"{machine.get('processor')}, {machine.get('threads')} threads" if machine else None),
        ("time", f"sampling {facts.get('sampling_seconds', 0):g} s, scoring {evaluation.get('seconds', 0):g} s"),
        ("date", facts.get("date")),
    ]
    return page.section("Provenance", "What has to be known for these numbers to mean something.", page.facts(rows))


def commands(run: Path, evaluation: dict[str, Any]) -> str:
    """Return what to type to do it again."""
    facts = evaluation["provenance"]
    sampling, seeds = facts.get("sampling") or {}, facts.get("seeds") or {}
    recipe = (facts.get("model") or {}).get("recipe")
    shown = Path("runs") / run.name if run.is_absolute() else run
    typed = []
    if recipe:
        typed += [f"limner train {recipe} --out {shown}"]
    if sampling:
        way = f"--sampler {sampling['sampler']} --steps {sampling['steps']} --guidance {sampling['guidance']:g}"
        typed += [f"limner eval {shown} --num {seeds.get('num')} --seed {seeds.get('first')} {way}"]
    if facts.get("command") and facts["command"] not in typed:
        typed.append(f"# this page: {facts['command']}")
    body = escape("\n".join(typed))
    footer = (
        f"<footer>Everything on this page is also in <code>evals/{escape(str(evaluation.get('name', '')))}.json</code>.</footer>"
    )
    return page.section("Do it again", "The same seeds give the same pictures.", f"<pre>{body}</pre>{footer}") if typed else footer
