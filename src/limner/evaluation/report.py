"""`report.html`: one page that a person wants to look at, with the numbers, the pictures behind them, and how to do it
again.

Every headline number stands beside its floor and its count. The page is one file: no script, no network. Next:
`showing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from limner.evaluation import charts, page
from limner.evaluation.measures import HIGHER_IS_BETTER
from limner.evaluation.page import number, percent
from limner.files import write_text

NAMES = {
    "frechet": "Fréchet distance",
    "kernel": "Kernel distance (KID)",
    "sliced_wasserstein": "Sliced Wasserstein",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
}


@dataclass
class Pictures:
    """What the page shows beside numbers; whatever is empty is left out.

    Arguments:
        images: [N, C, H, W] uint8, the pictures that were scored, with prompts and labels [N].
        closest: (picture, training image) [C, H, W] pairs, as `memorisation.closest`.
        progress: (name, PNG bytes) of the pictures of progress, oldest first.
        trajectory: GIF bytes of noise becoming pictures; still: how many steps it shows.
    """

    images: np.ndarray
    prompts: Sequence[str] = ()
    labels: np.ndarray | None = None
    closest: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    progress: Sequence[tuple[str, bytes]] = ()
    trajectory: bytes = b""
    steps: int = 0
    metrics: Sequence[dict[str, Any]] = field(default_factory=list)


def write_report(run: Path, evaluation: dict[str, Any], pictures: Pictures, *, path: Path | None = None) -> Path:
    """Write the page of an evaluation to RUN/report.html (or `path`) and return where it is.

    Raises: CheckpointError when the disk refuses.
    """
    run = Path(run)
    path = path or run / "report.html"
    parts = [
        header(run.name, evaluation),
        samples(evaluation, pictures),
        adherence(evaluation),
        extremes(evaluation, pictures),
        distances(evaluation),
        memorisation(evaluation, pictures),
        training(evaluation, pictures),
        progress(pictures),
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
        f'<header><p class="over">limner · evaluation · {escape(date)}</p><h1>{escape(name)}</h1><p class="deck">{escape(deck)}</p>'
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


def samples(evaluation: dict[str, Any], pictures: Pictures) -> str:
    """Return the 10x10 grid and the trajectory. The first hundred pictures, not chosen."""
    shown = list(pictures.images[:100])
    names = _class_names(evaluation)
    columns = len(names) if 2 <= len(names) <= 12 else 10
    shown = shown[: columns * 10]
    heads = ""
    if (
        columns == len(names)
        and pictures.labels is not None
        and list(pictures.labels[:columns]) == list(range(columns))
    ):
        cells = "".join(f"<span>{escape(name)}</span>" for name in names)
        heads = f'<div class="heads" style="grid-template-columns:repeat({columns},1fr)">{cells}</div>'
    sheet = page.image(page.png(page.sheet(shown, columns)), alt="a grid of samples")
    sampling = evaluation["provenance"].get("sampling") or {}
    how = (
        f"{escape(str(sampling.get('sampler')))}, {sampling.get('steps')} steps, guidance {sampling.get('guidance'):g}: "
        f"{evaluation['provenance'].get('network_evaluations', 0):g} network evaluations a picture, "
        f"{evaluation['provenance'].get('images_per_second', 0):g} pictures a second. "
        if sampling
        else ""
    )
    gif = ""
    if pictures.trajectory:
        moving = page.image(page.data_uri(pictures.trajectory, "image/gif"), alt="noise becoming pictures")
        gif = f'<figure class="sheet"><figcaption>From noise to picture, in {pictures.steps} steps</figcaption>{moving}</figure>'
    return page.section(
        "Samples",
        f"{how}The first {len(shown)}, as they came; none was chosen.",
        f'<figure class="sheet">{heads}{sheet}</figure>',
        gif,
    )


def _class_names(evaluation: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in evaluation.get("adherence", {}).get("per_class", [])]


def adherence(evaluation: dict[str, Any]) -> str:
    """Return the confusion matrix and accuracy by wording."""
    found = evaluation.get("adherence")
    if not found:
        return _verified(evaluation)
    names = _class_names(evaluation)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for asked, row in enumerate(found["confusion"]):
        cells = []
        for column, count in enumerate(row):
            share = count / max(1, sum(row))
            strength = 100 * share if column == asked else min(100, 600 * share)
            kind = "hit" if column == asked else "miss"
            cells.append(
                f'<td class="{kind}{" dark" if strength > 55 else ""}" style="--s:{strength:.0f}">{count or ""}</td>'
            )
        rows.append(f"<tr><th>{escape(names[asked])}</th>{''.join(cells)}</tr>")
    matrix = (
        f'<figure><figcaption>Asked for (rows), found (columns)</figcaption><div class="wide"><table class="confusion"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )
    wordings = sorted(found.get("per_prompt", {}).items(), key=lambda item: (item[1]["accuracy"], item[0]))[:10]
    worst = page.table(
        ["Hardest wordings", "adherence", "pictures"],
        [(escape(prompt), percent(entry["accuracy"]), entry["num"]) for prompt, entry in wordings],
    )
    probability = found["mean_probability"]
    text = (
        f"What the judge sees in each picture, against what was asked for. On average it gives the right class a probability of "
        f"<b>{number(probability['value'])}</b>; guidance raises that, so read it beside recall."
    )
    return page.section(
        "Does it show what was asked for?",
        text,
        f'<div class="two">{matrix}<div>{worst}</div></div>',
        _verified(evaluation),
    )


def _verified(evaluation: dict[str, Any]) -> str:
    rows = [
        (
            escape(key),
            percent(entry["value"]),
            " to ".join(percent(end) for end in entry["interval"]),
            f"{entry['num']:,}",
        )
        for key, entry in evaluation.get("verified", {}).items()
    ]
    return page.table(["Read back exactly", "share", "95 %", "asked"], rows) if rows else ""


def extremes(evaluation: dict[str, Any], pictures: Pictures) -> str:
    """Return the pictures that the judge believes least and most."""

    def strip(key: str) -> str:
        figures = []
        for entry in evaluation.get(key, [])[:10]:
            if entry["image"] < len(pictures.images):
                shown = page.pixels(pictures.images[entry["image"]], alt=entry["asked"])
                seen = "" if entry["found"] == entry["asked"] else f"<br>seen as {escape(entry['found'])}"
                figures.append(
                    f"<figure>{shown}{escape(entry['asked'])}{seen}<br>{number(entry['probability'], 2)}</figure>"
                )
        return f'<div class="strip">{"".join(figures)}</div>' if figures else ""

    worst, best = strip("worst"), strip("best")
    if not worst:
        return ""
    return page.section(
        "Worst and best",
        "By the probability that the judge gives to what was asked for. The worst come first: they say where to look.",
        f"<figure><figcaption>Worst</figcaption>{worst}</figure><figure><figcaption>Best</figcaption>{best}</figure>",
    )


def distances(evaluation: dict[str, Any]) -> str:
    """Return every distance in every feature network, beside floor and ceiling."""
    tables = []
    for network, measures in evaluation["distances"].items():
        rows = []
        for key, entry in measures.items():
            interval = entry.get("interval")
            arrow = "↑" if key in HIGHER_IS_BETTER else "↓"
            rows.append(
                (
                    f"{escape(NAMES.get(key, key))} <span class=tick>{arrow}</span>",
                    f"<b>{number(entry['value'])}</b>",
                    f"{number(interval[0])} to {number(interval[1])}" if interval else "–",
                    number(entry.get("floor")),
                    number(entry.get("ceiling")),
                )
            )
        tables.append(page.table([network, "pictures", "95 %", "real", "noise"], rows, classes="full even"))
    count = evaluation["counts"]["compared"]
    text = (
        f"{count:,} pictures against {count:,} real images. <b>Real</b> is what other real images score against the same ones, which "
        "is as good as it gets at this count; <b>noise</b> is as bad as it gets. The judge's features see classes; "
        "the random network's have learned nothing and see the rest."
    )
    return page.section("How near to real pictures?", text, "".join(tables))


def memorisation(evaluation: dict[str, Any], pictures: Pictures) -> str:
    """Return the closest training pairs."""
    found = evaluation.get("memorisation")
    if not found:
        return ""
    figures = []
    for (made, train), entry in zip(pictures.closest, found["closest"], strict=False):
        pair = page.pixels(made, alt="picture") + page.pixels(train, alt="nearest training image")
        figures.append(f'<figure><div class="pair">{pair}</div>{number(entry["distance"])}</figure>')
    low, high = found["probability"]["interval"]
    text = (
        f"The pictures (left) that come nearest to a training image (right). A picture is nearer to {found['count']:,} training images than to as "
        f"many others in <b>{percent(found['probability']['value'])}</b> of cases ({percent(low)} to {percent(high)}); for real images that were "
        f"never trained on it is in <b>{percent(found['real']['value'])}</b>. Nearer than 99 % of those come: "
        f"<b>{percent(found['copies']['value'])}</b>, where 1 % is to be expected."
    )
    return page.section("Are they copies?", text, f'<div class="strip">{"".join(figures)}</div>' if figures else " ")


def training(evaluation: dict[str, Any], pictures: Pictures) -> str:
    """Return loss, held-out loss, learning rate and the held-out loss by time."""
    metrics = pictures.metrics
    loss = [(line["images"], line["loss"]) for line in metrics if "loss" in line and "images" in line]
    held = [(line["images"], line["heldout_loss"]) for line in metrics if "heldout_loss" in line and "images" in line]
    rate = [(line["images"], line["learning_rate"]) for line in metrics if "learning_rate" in line and "images" in line]
    curves = [charts.Line(loss, "training loss", 1, faint=len(loss) > 150)]
    if len(loss) > 150:
        curves.append(charts.Line(_smoothed(loss), "smoothed", 1))
    curves.append(charts.Line(held, "held-out loss, averaged weights", 2, dots=True))
    left = charts.lines(curves, x="images seen", y="loss", log=True)
    right = charts.lines([charts.Line(rate, "learning rate", 3)], x="images seen", y="learning rate")
    speed = [(line["images"], line["images_per_second"]) for line in metrics if "images_per_second" in line]
    below = charts.lines([charts.Line(speed, "images a second", 4)], x="images seen", y="images a second")
    by_time = (evaluation.get("heldout") or {}).get("bins") or []
    names = [f"{i / len(by_time):.1f}" for i in range(len(by_time))]
    bars = charts.bars(by_time, names, x="time: 0 is data, 1 is noise", y="held-out loss by time") if by_time else ""
    charts_of = f'<div class="two">{left}{right}{bars}{below}</div>' if left else ""
    return page.section(
        "Training", "Loss on the way, and on fixed images, noise and times that training never saw.", charts_of
    )


def _smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the running mean over a fiftieth of the points on each side."""
    reach = max(1, len(points) // 50)
    values = np.array([value for _, value in points])
    return [(x, float(values[max(0, i - reach) : i + reach + 1].mean())) for i, (x, _) in enumerate(points)]


def progress(pictures: Pictures) -> str:
    """Return the pictures of progress: the same prompts and noise, later and later in training."""
    figures = [
        f"<figure><figcaption>{escape(name)}</figcaption>{page.image(page.data_uri(content, 'image/png'), alt=name)}</figure>"
        for name, content in pictures.progress
    ]
    text = "The same prompts with the same noise, as training goes on."
    return page.section("Samples over training", text, f'<div class="film">{"".join(figures)}</div>') if figures else ""


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
            f"{model['images_trained']:,} images, {model['seconds_trained']:g} s"
            if model.get("images_trained")
            else None,
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
    footer = f"<footer>Everything on this page is also in <code>evals/{escape(str(evaluation.get('name', '')))}.json</code>.</footer>"
    return (
        page.section("Do it again", "The same seeds give the same pictures.", f"<pre>{body}</pre>{footer}")
        if typed
        else footer
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a metrics file as objects; [] when there is none."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # a half-written last line
        if isinstance(value, dict):
            found.append(value)
    return found
