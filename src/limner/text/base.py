"""What every text encoder is: a module that turns captions into a Conditioning and knows what it cannot read.

The null conditioning is what the encoder says to the empty caption "". Next: `transformer.py`.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from limner.config import Config
from limner.types import Conditioning


class TextEncoder(nn.Module):
    """Captions in, Conditioning out. `width` is D; `trained` tells whether its weights belong to the model."""

    width: int
    trained: bool = True

    def encode(self, captions: list[str]) -> Conditioning:
        """Return the Conditioning of B captions, on the encoder's device; "" is the null caption."""
        raise NotImplementedError

    def check(self, prompt: str) -> list[str]:
        """Return warnings about a prompt; raise PromptError when it cannot be asked, naming the words."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write what `TextConfig.load` needs beside the weights, such as a tokenizer, into an existing folder."""


class TextConfig(Config):
    """Describes a text encoder."""

    kind: str

    def build(self, captions: list[str], labels: dict[str, int]) -> TextEncoder:
        """Return the encoder with random weights, made for a data set.

        Arguments:
            captions: all distinct captions of the training images.
            labels: caption -> class index, for sources that have classes; else empty.
        """
        raise NotImplementedError

    def load(self, folder: Path) -> TextEncoder:
        """Return the encoder from what `TextEncoder.save` wrote; its trained weights are put in afterwards."""
        raise NotImplementedError
