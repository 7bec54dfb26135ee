"""`shapes`: scenes drawn by program, of which some (colour, shape) pairs are never trained on, and an exact verifier.

The question it answers: does a model bind a colour to a thing, or has it learned pairs by heart? Next: `scenes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from limner.data.scenes import COLOURS, RELATIONS, SHAPES, WIDTHS, Scene, Thing, draw, parse
from limner.data.source import Example, Source
from limner.data.verify import read, verify
from limner.errors import ConfigError, PromptError

__all__ = ["Scene", "Shapes", "Thing", "draw", "parse", "read", "verify"]


class Shapes(Source):
    """Scenes of one or two things with their captions, and each scene as the attribute `scene`.

    Arguments:
        count: how many pictures; the share `test` of them is the test split, and half of that shows held-out pairs
            only.
        held_out: (colour, shape) pairs that are never trained on.
        two: share of the scenes with two things; a quarter of those are two equal ones.
        seed: of the scenes and their places.
    """

    kind: Literal["shapes"] = "shapes"
    size: Literal[32, 64] = 32
    channels: Literal[3] = 3
    judge: float = Field(0.0, ge=0, lt=1)
    test: float = Field(0.05, ge=0, lt=1)
    count: int = Field(30_000, ge=1, le=10_000_000)
    held_out: tuple[str, ...] = ("red square", "green circle", "blue cross", "yellow triangle")
    two: float = Field(0.7, ge=0, le=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _pairs_known(self) -> Shapes:
        if self.captions:
            raise ConfigError("shapes: captions come from the scenes themselves; leave `captions` out.")
        rest = [pair for pair in all_pairs() if pair not in self.held_out_pairs()]
        if {colour for colour, _ in rest} != set(COLOURS) or {shape for _, shape in rest} != set(SHAPES):
            raise ConfigError("shapes: held_out leaves a colour or a shape untrained in every pair; hold out fewer.")
        return self

    def held_out_pairs(self) -> list[tuple[str, str]]:
        """Return the pairs (colour, shape) that are never trained on."""
        pairs = []
        for text in self.held_out:
            try:
                (thing,) = parse(f"a {text}").things
            except (PromptError, ValueError) as error:
                raise ConfigError(f"shapes: held_out: {error}") from None
            if thing.colour is None or thing.size is not None:
                raise ConfigError(f"shapes: held_out: {text!r} is no pair of colour and shape such as 'red square'.")
            pairs.append((thing.colour, thing.shape))
        return pairs

    def scene(self, rng: np.random.Generator, *, held_out: bool) -> Scene:
        """Return a scene drawn from `rng`: all of its pairs held out, or none."""
        held = self.held_out_pairs()
        pairs = held if held_out and held else [pair for pair in all_pairs() if pair not in held]

        def thing() -> Thing:
            colour, shape = pairs[int(rng.integers(len(pairs)))]
            return Thing(shape, colour, list(WIDTHS)[int(rng.integers(2))])

        if rng.random() >= self.two:
            return Scene((thing(),))
        first, second = thing(), thing()
        if rng.random() < 0.25 or first == second:
            return Scene((first, first))
        return Scene((first, second), list(RELATIONS)[int(rng.integers(len(RELATIONS)))])

    def prompts(self, num: int, *, held_out: bool, seed: int = 1) -> list[tuple[str, Scene]]:
        """Return `num` prompts with the scenes they ask for: all of their pairs held out, or none."""
        rng = np.random.default_rng([seed, int(held_out)])
        scenes = [self.scene(rng, held_out=held_out) for _ in range(num)]
        return [(scene.captions()[int(rng.integers(3))], scene) for scene in scenes]

    def wording(self) -> tuple[str, ...]:
        """Return the template of a scene's own captions."""
        return ("{text}",)

    def examples(self) -> Iterator[Example]:
        """Yield the pictures; each depends on the seed and its number alone."""
        num = min(self.count, self.limit or self.count)
        num_test = round(self.test * num)
        for i in range(num):
            rng = np.random.default_rng([self.seed, i])
            test = i >= num - num_test
            held_out = test and (i - num) % 2 == 0 and bool(self.held_out)
            scene = self.scene(rng, held_out=held_out)
            attributes = {"scene": scene.as_dict(), "held_out": held_out}
            yield Example(draw(scene, self.size, rng), f"shapes/{i}", None, tuple(scene.captions()), attributes, test=test)


def all_pairs() -> list[tuple[str, str]]:
    """Return every (colour, shape)."""
    return [(colour, shape) for colour in COLOURS for shape in SHAPES]
