"""What every codec is: uint8 pixels to float latents and back. The value range of pixels, [-1, 1], is said here and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from limner.config import Config


class Codec(Config):
    """Turns pixels [B C H W] uint8 into latents [B c h w] float32 and back."""

    kind: str

    def latent_shape(self, channels: int, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (c, h, w) for images of `channels` and (height, width); raise ConfigError when they do not fit."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latents of uint8 pixels."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 pixels, rounded and clipped."""
        raise NotImplementedError

    def clip(self, x0: Tensor) -> Tensor:
        """Return predicted data clipped to what the latents can be; the identity where they are unbounded."""
        return x0


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 0..255 as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Return float images in [-1, 1] as uint8 0..255, clipped and rounded."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
