"""Our U-Net: small and fast on a CPU, the same on a GPU.

Pixels are folded into channels first (space-to-depth), so that no convolution runs at full resolution. Time and the pooled
caption set the scale and shift of every block (FiLM; all blocks' numbers come from one matrix product). Where the resolution is
low, pixels attend to each other and to the caption's tokens in one attention. Every residual branch and the output start at zero.
Next: `../model.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from limner.attention import attend, split_heads
from limner.errors import ConfigError
from limner.networks.base import NetworkConfig, TimeEmbedding
from limner.types import Conditioning


class UNet(NetworkConfig):
    """Geometry of the U-Net.

    Arguments:
        patch: side of the pixel blocks folded into channels before the first convolution.
        widths: channels of each level; each level has half the resolution of the one before.
        blocks: residual blocks of each level, on the way down and again on the way up.
        attention: for each level, whether its blocks are followed by attention (pixels and caption tokens as keys).
        middle: residual blocks at the lowest resolution between down and up, with one attention among them.
        head_width: channels of one attention head.
        embedding: width of the vector made of time and pooled caption.
        dropout: of residual blocks.
        skips: how the way up takes what the way down kept: concatenated to the input of each block (`cat`), or added (`add`).
    """

    kind: Literal["unet"] = "unet"
    patch: int = Field(2, ge=1, le=16)
    widths: tuple[int, ...] = (32, 64)
    blocks: int = Field(1, ge=1, le=16)
    attention: tuple[bool, ...] = (False, False)
    middle: int = Field(2, ge=1, le=16)
    head_width: int = Field(32, ge=8, le=256)
    embedding: int = Field(128, ge=16, le=8192)
    dropout: float = Field(0.0, ge=0, lt=1)
    skips: Literal["cat", "add"] = "cat"

    @model_validator(mode="after")
    def _fits(self) -> UNet:
        if not self.widths:
            raise ConfigError("unet: widths needs at least one level, such as [32, 64].")
        if len(self.attention) != len(self.widths):
            raise ConfigError(f"unet: attention has {len(self.attention)} entries for {len(self.widths)} widths; give one a level.")
        for width in self.widths:
            if width % 8 or not 8 <= width <= 8192:
                raise ConfigError(f"unet: every width is a multiple of 8 between 8 and 8192, not {width}.")
        for width in (self.widths[-1], *(w for w, on in zip(self.widths, self.attention, strict=True) if on)):
            if width % self.head_width:
                raise ConfigError(f"unet: width {width} with attention is not a multiple of head_width {self.head_width}.")
        return self

    def build(self, *, channels: int, size: tuple[int, int], text_width: int) -> nn.Module:
        step = self.patch * 2 ** (len(self.widths) - 1)
        if any(side % step or side < step for side in size):
            raise ConfigError(
                f"unet: images of {size[0]}x{size[1]} do not divide by {step} (patch {self.patch}, {len(self.widths)} levels). "
                f"Choose another data.size, patch or number of widths."
            )
        # Channels last: convolutions and per-pixel norms both read memory in order (measured: 1.2 times the training speed on a CPU).
        module = UNetModule(self, channels=channels, text_width=text_width)
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def image_norm(x: Tensor) -> Tensor:
    """Return x [B C H W], laid out channels-last, with mean 0 and variance 1 over each image: GroupNorm with one group, no weights.

    As a LayerNorm over H·W·C it is one pass over contiguous memory; scales and shifts come from FiLM (measured: LOG.md).
    """
    _, c, h, w = x.shape
    return F.layer_norm(x.permute(0, 2, 3, 1), (h, w, c)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + conv(SiLU(FiLM(norm(conv(SiLU(norm(x))))))), the second convolution starting at zero."""

    repeated = True

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.film_width = 2 * width
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """Return [B, width, H, W] for x [B, width_in, H, W] and film [B, 2·width]."""
        scale, shift = film[:, :, None, None].to(x.dtype).chunk(2, dim=1)
        h = self.conv1(F.silu(image_norm(x)))
        h = torch.addcmul(shift, image_norm(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Pixels attend to all pixels and to the caption's tokens; the output starts at zero."""

    repeated = True

    def __init__(self, width: int, head_width: int, text_width: int) -> None:
        super().__init__()
        self.num_heads = width // head_width
        self.pixels = nn.Linear(width, 3 * width)
        self.text_norm = nn.LayerNorm(text_width)
        self.text = nn.Linear(text_width, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return x [B C H W] changed by attention; tokens [B L D], mask [B L]."""
        b, c, h, w = x.shape
        q, k, v = self.pixels(image_norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        text_k, text_v = self.text(self.text_norm(tokens)).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in (q, torch.cat([k, text_k], 1), torch.cat([v, text_v], 1)))
        y = attend(q, k, v, F.pad(mask, (h * w, 0), value=True)[:, None, None, :])
        y = self.out(y.transpose(1, 2).reshape(b, h * w, c))
        return x + y.transpose(1, 2).reshape(b, c, h, w)


class Level(nn.Module):
    """Blocks of one resolution, each with its attention where the level has one."""

    def __init__(self, widths_in: list[int], width: int, attention: bool, config: UNet, text_width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width_in, width, config.dropout) for width_in in widths_in)
        self.attentions = nn.ModuleList(
            Attention(width, config.head_width, text_width) if attention else nn.Identity() for _ in widths_in
        )


class UNetModule(nn.Module):
    """The network that `UNet` describes."""

    def __init__(self, config: UNet, *, channels: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        widths, n = config.widths, config.blocks
        folded = channels * config.patch**2
        self.time = TimeEmbedding(config.embedding)
        self.pooled = nn.Linear(text_width, config.embedding)
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        for i, width in enumerate(widths):
            self.down.append(Level([width] * n, width, config.attention[i], config, text_width))
            if i + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[i + 1], 3, stride=2, padding=1))
        deep = widths[-1]
        self.middle = Level([deep] * config.middle, deep, False, config, text_width)
        self.middle_attention = Attention(deep, config.head_width, text_width)
        for i in reversed(range(len(widths))):
            width = widths[i]
            self.up.append(
                Level([2 * width if config.skips == "cat" else width] * n, width, config.attention[i], config, text_width)
            )
            if i:
                self.grow.append(nn.Conv2d(width, 4 * widths[i - 1], 1))  # then depth-to-space: x2
        self.out = nn.Conv2d(widths[0], folded, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        films: list[int] = [block.film_width for level in self._levels() for block in level.blocks]  # type: ignore[misc]
        self.film_widths = films
        self.film = nn.Linear(config.embedding, sum(films))
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def _levels(self) -> list[Level]:
        return [*self.down, self.middle, *self.up]  # type: ignore[list-item]

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return y [B C H W] for x [B C H W], t [B]."""
        tokens, mask = conditioning.tokens, conditioning.mask
        films = iter(self.film(F.silu(self.time(t) + self.pooled(conditioning.pooled))).split(self.film_widths, dim=1))

        def run(level: Level, h: Tensor, skips: list[Tensor] | None = None) -> Tensor:
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                if skips is not None:
                    h = torch.cat([h, skips.pop()], 1) if self.config.skips == "cat" else h + skips.pop()
                h = block(h, next(films))
                if isinstance(attention, Attention):
                    h = attention(h, tokens, mask)
                if skips is None:
                    kept.append(h)
            return h

        kept: list[Tensor] = []
        h = self.stem(F.pixel_unshuffle(x, self.config.patch).contiguous(memory_format=torch.channels_last))
        for i, level in enumerate(self.down):
            h = run(level, h)  # type: ignore[arg-type]
            if i < len(self.shrink):
                h = self.shrink[i](h)
        for i, block in enumerate(self.middle.blocks):
            h = block(h, next(films))
            if i == 0:
                h = self.middle_attention(h, tokens, mask)
        for i, level in enumerate(self.up):
            h = run(level, h, kept)  # type: ignore[arg-type]
            if i < len(self.grow):
                h = F.pixel_shuffle(self.grow[i](h), 2)
        y = self.out(F.silu(image_norm(h)))
        return F.pixel_shuffle(y, self.config.patch)
