"""Plain tables for the terminal. Written by hand because importing a table library costs more than everything else a
verb does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = (), colour: int | None = None) -> str:
    """Return rows under a head, in columns as wide as they need.

    Arguments:
        right: columns set to the right (numbers).
        colour: the column whose words colour themselves: green for what is free or running, yellow for waiting, red
        for trouble.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    lines = [style("  ".join(_pad(name, widths[i], i in right) for i, name in enumerate(head)).rstrip(), BOLD)]
    for row in cells:
        parts = [_pad(cell, widths[i], i in right) for i, cell in enumerate(row)]
        if colour is not None:
            parts[colour] = style(parts[colour], _colour(row[colour]))
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def style(text: str, code: str) -> str:
    """Return the text in a terminal's colour; plain where stdout is no terminal or NO_COLOR is set."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def gigabytes(megabytes: int) -> str:
    """Return memory as `251 GB`, or `3.9 GB` when small."""
    value = megabytes / 1024
    return f"{value:.0f} GB" if value >= 10 else f"{value:.1f} GB"


def duration(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _colour(word: str) -> str:
    lowered = word.lower()
    if any(sign in lowered for sign in ("drain", "down", "fail", "maint", "reserv", "not_resp", "invalid", "cancel", "timeout")):
        return RED
    if lowered.startswith(("idle", "free", "mixed", "running", "completed")):
        return GREEN
    return YELLOW
