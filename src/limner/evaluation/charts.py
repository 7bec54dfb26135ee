"""Charts as inline SVG: lines and bars in the page's own colours, so that they follow light and dark. Next:
`page.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 38


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), a name for the legend, and which of the page's colours 1 to 4; faint ones are drawn
    thin."""

    points: Sequence[tuple[float, float]]
    name: str
    colour: int = 1
    faint: bool = False
    dots: bool = False


def lines(curves: Sequence[Line], *, x: str, y: str, log: bool = False, title: str = "") -> str:
    """Return an SVG of curves with axes named `x` and `y`; `log` draws y in powers of ten. "" when no curve has
    points."""
    cleaned = [(c, [(float(a), float(b)) for a, b in c.points if math.isfinite(b) and (b > 0 or not log)]) for c in curves]
    points = [point for _, each in cleaned for point in each]
    if not points:
        return ""
    scale = (lambda value: math.log10(value)) if log else (lambda value: value)
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = min(scale(p[1]) for p in points), max(scale(p[1]) for p in points)
    x_high = x_high if x_high > x_low else x_low + 1
    margin = 0.06 * (y_high - y_low) or 0.5
    y_low, y_high = y_low - margin, y_high + margin

    def at(px: float, py: float) -> tuple[float, float]:
        across = (px - x_low) / (x_high - x_low)
        up = (scale(py) - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title or y)}">']
    for tick in _log_ticks(y_low, y_high) if log else _ticks(y_low, y_high):
        _, height = at(x_low, tick)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in _ticks(x_low, x_high):
        across = LEFT + (tick - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text class="tick" x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x)}</text>')
    for curve, each in cleaned:
        path = " ".join(f"{'L' if index else 'M'}{a:.1f} {b:.1f}" for index, (a, b) in enumerate(at(*point) for point in each))
        parts.append(f'<path class="line c{curve.colour}{" faint" if curve.faint else ""}" d="{path}"/>')
        if curve.dots:
            parts += [f'<circle class="dot c{curve.colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in (at(*p) for p in each)]
    parts.append("</svg>")
    legend = "".join(
        f'<span class="key"><i class="c{curve.colour}"></i>{escape(curve.name)}</span>' for curve, each in cleaned if each
    )
    return f'<figure class="chart"><figcaption>{legend}</figcaption>{"".join(parts)}</figure>'


def bars(values: Sequence[float], names: Sequence[str], *, x: str, y: str) -> str:
    """Return an SVG of bars from 0, each with its name below and its value above; `x` says what the names are."""
    top = max([*values, 1e-12])
    step = (WIDTH - 4) / max(1, len(values))
    floor = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y)}">']
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        height = (floor - TOP - 18) * value / top
        left = 2 + index * step
        middle = left + step / 2
        parts.append(
            f'<rect class="bar" x="{left + 2:.1f}" width="{step - 4:.1f}" y="{floor - height:.1f}" '
            f'height="{height:.1f}" rx="2"/>'
            f'<text class="tick" x="{middle:.1f}" y="{floor - height - 6:.1f}" text-anchor="middle">{value:.2g}</text>'
            f'<text class="tick" x="{middle:.1f}" y="{floor + 18}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(f'<text class="axis" x="{WIDTH - 4}" y="{HEIGHT - 3}" text-anchor="end">{escape(x)}</text></svg>')
    return f'<figure class="chart"><figcaption>{escape(y)}</figcaption>{"".join(parts)}</figure>'


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between low and high."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between 10^low and 10^high."""
    found = [f * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    return [tick for tick in found if low <= math.log10(tick) <= high]


def _number(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
