"""HTML by small functions: everything that is put into the page is escaped, every picture is inside it. Next:
`report.py`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from limner.generate import to_pil


def page(title: str, body: str) -> str:
    """Return a whole document that needs no other file, no network and no script."""
    css = (resources.files("limner.evaluation") / "page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, text: str, *parts: str) -> str:
    """Return a section with a heading and a paragraph (HTML already); "" when there is nothing in it."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{text}</p>\n{content}\n</section>" if content else ""


def png(picture: Image.Image) -> str:
    """Return a picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image(source: str, *, alt: str, classes: str = "") -> str:
    """Return an image element of a data URI."""
    return f'<img src="{source}" alt="{escape(alt, quote=True)}"{f" class={classes!r}" if classes else ""}>'


def pixels(values: np.ndarray, *, alt: str) -> str:
    """Return an image element of one picture [C, H, W] uint8."""
    return image(png(to_pil(values)), alt=alt)


def sheet(pictures: Sequence[np.ndarray], columns: int, *, gap: int = 1) -> Image.Image:
    """Return pictures [C, H, W] uint8 row by row on a transparent ground."""
    _, height, width = pictures[0].shape
    rows = -(-len(pictures) // columns)
    ground = Image.new("RGBA", (columns * (width + gap) - gap, rows * (height + gap) - gap), (0, 0, 0, 0))
    for index, picture in enumerate(pictures):
        ground.paste(to_pil(picture), ((index % columns) * (width + gap), (index // columns) * (height + gap)))
    return ground


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, classes: str = "full", numbers: int = 1) -> str:
    """Return a table of cells (HTML already); columns from `numbers` on are set to the right."""

    def cell(tag: str, index: int, content: Any) -> str:
        return f"<{tag}{' class=n' if index >= numbers else ''}>{content}</{tag}>"

    head = "".join(cell("th", index, escape(each)) for index, each in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', index, each) for index, each in enumerate(row))}</tr>" for row in rows)
    return f'<div class="wide"><table class="{classes}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """Return a table of names and values (escaped here); values of None are left out."""
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in rows if value not in (None, "")
    )
    return f'<table class="full facts"><tbody>{body}</tbody></table>'


def number(value: float | None, digits: int = 3) -> str:
    """Return a number to some significant digits, as people write it; a dash for None."""
    if value is None:
        return "–"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-4):
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if value else "0"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as per cent; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"
