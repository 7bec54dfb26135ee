"""The sections of `report.html`, one function each; what is not there is left out. Next: `showing.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from limner.evaluation import charts, page
from limner.evaluation.measures import HIGHER_IS_BETTER
from limner.evaluation.page import number, percent

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
    metrics: Sequence[dict[str, Any]] = ()


def samples(evaluation: dict[str, Any], pictures: Pictures) -> str:
    """Return the 10x10 grid and the trajectory. The first hundred pictures, not chosen."""
    shown = list(pictures.images[:100])
    names = _class_names(evaluation)
    columns = len(names) if 2 <= len(names) <= 12 else 10
    shown = shown[: columns * 10]
    heads = ""
    if columns == len(names) and pictures.labels is not None and list(pictures.labels[:columns]) == list(range(columns)):
        cells = "".join(f"<span>{escape(name)}</span>" for name in names)
        heads = f'<div class="heads" style="grid-template-columns:repeat({columns},1fr)">{cells}</div>'
    sheet = page.image(page.png(page.sheet(shown, columns)), alt="a grid of samples")
    sampling = evaluation["provenance"].get("sampling") or {}
    how = (
        f"{escape(str(sampling.get('sampler')))}, {sampling.get('steps')} steps, guidance "
        f"{sampling.get('guidance'):g}: "
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
            cells.append(f'<td class="{kind}{" dark" if strength > 55 else ""}" style="--s:{strength:.0f}">{count or ""}</td>')
        rows.append(f"<tr><th>{escape(names[asked])}</th>{''.join(cells)}</tr>")
    matrix = (
        '<figure><figcaption>Asked for (rows), found (columns)</figcaption><div class="wide"><table '
        'class="confusion"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )
    wordings = sorted(found.get("per_prompt", {}).items(), key=lambda item: (item[1]["accuracy"], item[0]))[:10]
    worst = page.table(
        ["Hardest wordings", "adherence", "pictures"],
        [(escape(prompt), percent(entry["accuracy"]), entry["num"]) for prompt, entry in wordings],
    )
    probability = found["mean_probability"]
    text = (
        "What the judge sees in each picture, against what was asked for. On average it gives the right "
        "class a probability of "
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
                figures.append(f"<figure>{shown}{escape(entry['asked'])}{seen}<br>{100 * entry['probability']:.2g} %</figure>")
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
        f"{count:,} pictures against {count:,} real images. <b>Real</b> is what other real images score "
        "against the same ones, which "
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
        "The pictures (left) that come nearest to a training image (right). A picture is nearer to "
        f"{found['count']:,} training images than to as "
        f"many others in <b>{percent(found['probability']['value'])}</b> of cases ({percent(low)} to "
        f"{percent(high)}); for real images that were "
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
    return page.section("Training", "Loss on the way, and on fixed images, noise and times that training never saw.", charts_of)


def _smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the running mean over a fiftieth of the points on each side."""
    reach = max(1, len(points) // 50)
    values = np.array([value for _, value in points])
    return [(x, float(values[max(0, i - reach) : i + reach + 1].mean())) for i, (x, _) in enumerate(points)]


def progress(pictures: Pictures) -> str:
    """Return the pictures of progress: the same prompts and noise, later and later in training."""
    figures = [
        f"<figure><figcaption>{escape(name)}</figcaption>{page.image(source, alt=name)}</figure>"
        for name, source in ((name, page.data_uri(content, "image/png")) for name, content in pictures.progress)
    ]
    text = "The same prompts with the same noise, as training goes on."
    return page.section("Samples over training", text, f'<div class="film">{"".join(figures)}</div>') if figures else ""
