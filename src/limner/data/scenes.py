"""Scenes of one or two plain things: their words, their drawing, and what a prompt asks for.

    a small red circle        two large blue squares        a small red circle above a large blue square

A thing of width d (pixels at side 32) is drawn with edges one pixel soft: coverage = clip(distance inside + 1/2, 0, 1).
Next: `shapes.py`, the source, and `verify.py`, which reads a picture back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from limner.errors import PromptError, nearest, shorten

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 90, 240),
    "yellow": (240, 210, 40),
    "purple": (170, 50, 210),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
WIDTHS = {"small": (8.0, 9.5), "large": (12.5, 14.5)}  # pixels at side 32
BETWEEN = 11.0  # the width that parts small from large
RELATIONS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}  # (x, y) from second to first
INVERSE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
SIDE = 32
GAP = 2.0  # least distance between two things
ARM = 0.36  # a cross's arm, as a share of its width
AREA = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "cross": 2 * ARM - ARM**2}  # of its bounding square
SINK = {"circle": 0.0, "square": 0.0, "triangle": 1 / 6, "cross": 0.0}  # centroid below the middle, in widths
NUMBERS = ("a", "an", "one", "two")
_PLURALS = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}
_OPENING = re.compile(r"(?:(?:a|the) (?:picture|image|drawing) (?:of|with|showing) |there (?:is|are) )", re.ASCII)


@dataclass(frozen=True)
class Thing:
    """One thing; None is "not said"."""

    shape: str
    colour: str | None = None
    size: str | None = None

    def words(self, number: str = "a") -> str:
        """Return "a small red circle", or with another number in front."""
        shape = self.shape if number != "two" else f"{self.shape}es" if self.shape == "cross" else f"{self.shape}s"
        return " ".join(filter(None, [number, self.size, self.colour, shape]))


@dataclass(frozen=True)
class Scene:
    """One thing, two equal things without a relation, or two things of which the first is `relation` the second."""

    things: tuple[Thing, ...]
    relation: str | None = None

    def captions(self) -> list[str]:
        """Return the ways to say it, the plainest first."""
        if len(self.things) == 1:
            thing = self.things[0]
            return [thing.words(), thing.words("one"), f"a picture of {thing.words()}"]
        first, second = self.things
        if self.relation is None:
            plural = first.words("two")
            return [plural, f"there are {plural}", f"a picture of {plural}"]
        there, back = (said(relation) for relation in (self.relation, INVERSE[self.relation]))
        forward = f"{first.words()} {there} {second.words()}"
        return [forward, f"{second.words()} {back} {first.words()}", f"a picture of {forward}"]

    def as_dict(self) -> dict[str, Any]:
        """Return the scene as JSON."""
        things = [{"shape": thing.shape, "colour": thing.colour, "size": thing.size} for thing in self.things]
        return {"things": things, "relation": self.relation}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Scene:
        """Return the scene that `as_dict` wrote."""
        return Scene(tuple(Thing(**thing) for thing in value["things"]), value["relation"])


def said(relation: str) -> str:
    """Return a relation in words."""
    return f"to the {relation}" if relation in ("left of", "right of") else relation


def parse(prompt: str) -> Scene:
    """Return the scene that a prompt asks for; a colour or size that is not said is None.

    Raises: PromptError naming the word that is not understood.
    """
    text = " ".join(prompt.casefold().replace(",", " ").rstrip(" .").split())
    text = re.sub(r"\b(?:is |are )?(?:to|on) the (left|right) of\b", r"\1 of", text)
    text = _OPENING.sub("", text, count=1) if _OPENING.match(text) else text
    for relation in RELATIONS:
        first, found, second = text.partition(f" {relation} ")
        if found:
            left, right = _things(first, prompt), _things(second, prompt)
            if len(left) + len(right) != 2:
                raise PromptError(f"{shorten(prompt)}: a relation is between one thing and another, not between more.")
            return Scene((*left, *right), relation)
    return Scene(_things(text, prompt))


def _things(words: str, prompt: str) -> tuple[Thing, ...]:
    number, size, colour, shape = "a", None, None, None
    stages = (NUMBERS, tuple(WIDTHS), tuple(COLOURS), (*SHAPES, *_PLURALS))
    stage = 0
    for word in words.split():
        at = next((i for i in range(stage, 4) if word in stages[i]), None)
        if at is None:
            known = [known for names in stages for known in names] + [part for name in RELATIONS for part in name.split()]
            fault = f"{word!r} stands where it cannot" if word in known else f"the word {word!r} is unknown"
            hint = "" if word in known else nearest(word, known)
            raise PromptError(
                f"{shorten(prompt)}: {fault}.{hint} A scene: 'a small red circle above a large blue square'.\n"
                f"Sizes: {', '.join(WIDTHS)}. Colours: {', '.join(COLOURS)}. Shapes: {', '.join(SHAPES)}. "
                f"Relations: {', '.join(map(said, RELATIONS))}."
            )
        number = word if at == 0 else number
        size = word if at == 1 else size
        colour = word if at == 2 else colour
        shape = _PLURALS.get(word, word) if at == 3 else shape
        stage = at + 1
    if shape is None:
        raise PromptError(f"{shorten(prompt)}: a shape is missing. Shapes: {', '.join(SHAPES)}.")
    return (Thing(shape, colour, size),) * (2 if number == "two" else 1)


def coverage(shape: str, centre: tuple[float, float], width: float, side: int) -> np.ndarray:
    """Return [side, side] float in [0, 1]: how much of each pixel a thing covers.

    Arguments:
        centre: (x, y) of the middle of its bounding square, in pixels from the upper left corner.
        width: of its bounding square, in pixels.
    """
    at = np.arange(side) + 0.5
    x, y = at[None, :] - centre[0], at[:, None] - centre[1]
    half = width / 2
    if shape == "circle":
        inside = half - np.hypot(x, y)
    elif shape == "square":
        inside = half - np.maximum(np.abs(x), np.abs(y))
    elif shape == "triangle":  # apex up; its slanted edges rise 2 for each 1 across
        inside = np.minimum((half + y - 2 * np.abs(x)) / np.sqrt(5.0), half - y)
    else:
        ax, ay, arm = np.abs(x), np.abs(y), ARM * half
        inside = half - np.maximum(ax, ay)
        inside = np.minimum(inside, arm - np.minimum(ax, ay))
    return np.clip(inside + 0.5, 0.0, 1.0)


def draw(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return [3, side, side] uint8: the scene on black, with places and widths drawn from `rng`.

    Every thing must have a colour and a size.
    """
    picture = np.zeros((3, side, side))
    widths = [rng.uniform(*WIDTHS[thing.size or "small"]) for thing in scene.things]
    for thing, width, centre in zip(scene.things, widths, _places(scene, widths, rng), strict=True):
        scale = side / SIDE
        cover = coverage(thing.shape, (centre[0] * scale, centre[1] * scale), width * scale, side)
        colour = np.array(COLOURS[thing.colour or "white"], float)[:, None, None]
        picture += cover * (colour - picture)
    return np.rint(picture).astype(np.uint8)


def _places(scene: Scene, widths: list[float], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres (x, y) at side 32: inside the picture, apart by GAP, and clearly in their relation."""
    if len(widths) == 1:
        return [(rng.uniform(widths[0] / 2, SIDE - widths[0] / 2), rng.uniform(widths[0] / 2, SIDE - widths[0] / 2))]
    names = list(RELATIONS)
    relation = scene.relation or names[int(rng.integers(len(names)))]
    across, down = RELATIONS[relation]
    first_low = across + down < 0  # the first has the smaller coordinate along the axis
    low, high = widths if first_low else widths[::-1]
    slack = SIDE - low - high - GAP
    before, between = np.sort(rng.uniform(0, slack, 2))
    a = before + low / 2
    b = before + low + GAP + (between - before) + high / 2
    reach = max(b - a - 3.0, 0.0)  # sideways less far than along the axis
    a_side = rng.uniform(low / 2, SIDE - low / 2)
    b_side = rng.uniform(max(high / 2, a_side - reach), min(SIDE - high / 2, a_side + reach))
    pair = [(a, a_side), (b, b_side)] if across else [(a_side, a), (b_side, b)]
    return pair if first_low else pair[::-1]
