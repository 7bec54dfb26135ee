"""Codecs: pixels <-> latents. Start with `pixels.py`."""

from limner.codecs.base import Codec
from limner.codecs.patches import Patches
from limner.codecs.pixels import Pixels
from limner.config import Family

CODECS = Family("codec", {"pixels": Pixels, "patches": Patches})

__all__ = ["CODECS", "Codec", "Patches", "Pixels"]
