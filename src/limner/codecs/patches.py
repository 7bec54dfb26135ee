"""Space-to-depth: blocks of pixels become channels, so that any network works at a lower resolution, without loss."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from limner.codecs.base import Codec, to_float, to_uint8
from limner.errors import ConfigError


class Patches(Codec):
    """Latents [B, C·size², H/size, W/size] are the pixels in [-1, 1], folded."""

    kind: Literal["patches"] = "patches"
    size: int = Field(2, ge=2, le=16)

    def latent_shape(self, channels: int, size: tuple[int, int]) -> tuple[int, int, int]:
        if size[0] % self.size or size[1] % self.size:
            raise ConfigError(f"codec patches: images of {size[0]}x{size[1]} do not divide by {self.size}.")
        return (channels * self.size**2, size[0] // self.size, size[1] // self.size)

    def encode(self, pixels: Tensor) -> Tensor:
        return F.pixel_unshuffle(to_float(pixels), self.size)

    def decode(self, latents: Tensor) -> Tensor:
        return to_uint8(F.pixel_shuffle(latents.float(), self.size))

    def clip(self, x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1)
