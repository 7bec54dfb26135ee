"""What every network is: a module that answers y [B C H W] for x_t [B C H W], t [B] and a Conditioning. Next: `unet.py`."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from limner.config import Config
from limner.types import Conditioning


class Network(Protocol):
    """Any module with this call; the time is the program's own, 0 at the data and 1 at the noise."""

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction y [B C H W] at x [B C H W], t [B]."""
        ...


class NetworkConfig(Config):
    """Describes a network; `build` makes it with random weights."""

    kind: str

    def build(self, *, channels: int, size: tuple[int, int], text_width: int) -> nn.Module:
        """Return the network for latents [B, channels, *size] and conditioning of width `text_width`.

        Raises: ConfigError when the latents' size does not fit the network's geometry.
        """
        raise NotImplementedError


class TimeEmbedding(nn.Module):
    """Sines and cosines of t at frequencies from 1 to 1000 turns (over 2·pi), then an MLP to `width`.

    Source: Vaswani et al. 2017, Section 3.5, as used by Ho et al. 2020 (t in [0, 1] stands for their step/1000).
    """

    def __init__(self, width: int, num_frequencies: int = 64) -> None:
        super().__init__()
        exponents = torch.arange(num_frequencies) / num_frequencies
        self.register_buffer("frequencies", 1000.0 * torch.exp(-math.log(10_000.0) * exponents), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Return [B, width] for t [B]."""
        angles = t.float()[:, None] * self.frequencies  # type: ignore[operator]
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


def num_parameters(module: nn.Module) -> int:
    """Return how many trainable numbers a module has."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
