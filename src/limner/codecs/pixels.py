"""The plainest codec: latents are the pixels in [-1, 1]. Next: `patches.py`."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limner.codecs.base import Codec, to_float, to_uint8


class Pixels(Codec):
    """Latents [B C H W] are the pixels in [-1, 1]."""

    kind: Literal["pixels"] = "pixels"

    def latent_shape(self, channels: int, size: tuple[int, int]) -> tuple[int, int, int]:
        return (channels, *size)

    def encode(self, pixels: Tensor) -> Tensor:
        return to_float(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return to_uint8(latents)

    def clip(self, x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1)
