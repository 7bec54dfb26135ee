"""From templates and texts to captions, and from a caption back to the class it asks for.

A template is a caption with fields: `{class}` the class's name as the source gives it, `{word}` the same as one says
it ("seven", "golden retriever"), `{index}` the class's number, `{text}` each text that came with the image, and any
attribute of the image. Braces themselves are written `{{` and `}}`. Only plain names are fields: no dots, no indices.
Next: `source.py`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np

from limner.errors import ConfigError, DataError, nearest, shorten

CLASS_FIELDS = ("class", "word", "index")
MAX_CAPTION = 4096  # characters; the longest captions of public data sets have under 3,000

_ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

Part = tuple[str, str | None]
"""A piece of a template: literal text, then the name of a field or None."""


def spoken(name: str) -> str:
    """Return a class's name as one says it: "7" is "seven", "golden_retriever" is "golden retriever"."""
    if re.fullmatch(r"[0-9]{1,2}", name):
        number = int(name)
        if number < 20:
            return _ONES[number]
        tens, ones = _TENS[number // 10 - 2], number % 10
        return f"{tens}-{_ONES[ones]}" if ones else tens
    return " ".join(name.replace("_", " ").split()).lower() or name


def normalised(caption: str) -> str:
    """Return a caption as it is compared: case folded, runs of white space one space."""
    return " ".join(caption.casefold().split())


@lru_cache(maxsize=4096)
def parse_template(template: str) -> tuple[Part, ...]:
    """Return the parts of a template.

    Raises: ConfigError for an empty template, an unbalanced brace, or a field that is no plain name.
    """
    if not template.strip():
        raise ConfigError("captions: a template is empty. Write a caption such as 'a photo of a {class}'.")
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"captions: {shorten(template)}: {error}. A field is written {{class}}; a brace itself {{{{ or }}}}."
        ) from error
    parts: list[Part] = []
    for literal, field, spec, conversion in pieces:
        if field is not None and (spec or conversion or not _NAME.match(field)):
            raise ConfigError(
                f"captions: {shorten(template)}: {{{field}}} is no plain field. "
                "Allowed: {class}, {word}, {index}, {text} or the name of an attribute."
            )
        parts.append((literal, field))
    return tuple(parts)


def fields_of(templates: Iterable[str]) -> set[str]:
    """Return the names of all fields in the templates."""
    return {field for template in templates for _, field in parse_template(template) if field is not None}


def class_values(class_names: Sequence[str], label: int) -> dict[str, str]:
    """Return the values of `{class}`, `{word}` and `{index}` for a label; empty when there is no such class."""
    if not 0 <= label < len(class_names):
        return {}
    return {"class": class_names[label], "word": spoken(class_names[label]), "index": str(label)}


def render(templates: Sequence[str], values: Mapping[str, str], texts: Sequence[str] = (), *, where: str = "captions") -> list[str]:
    """Return the distinct captions that the templates make, in their order; `{text}` gives one for each text.

    Raises: DataError naming `where` and the field that has no value there.
    """
    captions: dict[str, None] = {}
    for template in templates:
        parts = parse_template(template)
        for text in texts if any(field == "text" for _, field in parts) else ("",):
            made = []
            for literal, field in parts:
                made.append(literal)
                if field == "text":
                    made.append(text)
                elif field is not None:
                    if field not in values:
                        allowed = [*values, *(["text"] if texts else [])]
                        has = f"Allowed: {', '.join(allowed)}." if allowed else "It has neither class nor attributes."
                        raise DataError(
                            f"{where}: there is no value for {{{field}}} of the caption template "
                            f"{shorten(template)}.{nearest(field, allowed)} {has}"
                        )
                    made.append(values[field])
            caption = " ".join("".join(made).split())
            if len(caption) > MAX_CAPTION:
                raise DataError(f"{where}: a caption of {len(caption)} characters; at most {MAX_CAPTION} are allowed.")
            if caption:
                captions[caption] = None
    return list(captions)


class CaptionTable:
    """The captions of N images: groups of captions, and the group of each image.

    Arguments:
        groups: the captions of each group.
        group: [N] int64, each image's group.
        by_class: the captions that the templates make of each class; empty where there are no classes.
    """

    def __init__(self, groups: list[list[str]], group: np.ndarray, by_class: list[list[str]]) -> None:
        self.groups = groups
        self.group = group
        self.by_class = by_class

    def of(self, i: int) -> list[str]:
        """Return the captions of image `i`."""
        return list(self.groups[self.group[i]])

    @cached_property
    def distinct(self) -> list[str]:
        """All captions, each once, sorted."""
        return sorted({caption for group in [*self.groups, *self.by_class] for caption in group})

    @cached_property
    def _label_of(self) -> dict[str, int | None]:
        table: dict[str, int | None] = {}
        for label, captions in enumerate(self.by_class):
            for caption in captions:
                key = normalised(caption)
                table[key] = label if table.get(key, label) == label else None  # two classes share it: it asks for none
        return table

    def label_of(self, prompt: str) -> int | None:
        """Return the class that a prompt asks for: None when it is no caption of a class, or one of several classes."""
        return self._label_of.get(normalised(prompt))
