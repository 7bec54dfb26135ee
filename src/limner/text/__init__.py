"""Text encoders: captions -> Conditioning. Start with `transformer.py`."""

from limner.config import Family
from limner.text.base import TextConfig, TextEncoder
from limner.text.labels import Labels
from limner.text.transformer import Transformer

TEXTS = Family("text", {"transformer": Transformer, "labels": Labels})

__all__ = ["TEXTS", "Labels", "TextConfig", "TextEncoder", "Transformer"]
