"""Random changes that keep an image's class: one resampling for shift, turn, scale, shear and a small elastic bend.

Digits are never flipped (a mirrored 2 is no 2). Source: Simard, Steinkraus and Platt 2003 (elastic distortions);
DeVries and Taylor 2017 (cutout). Next: `judge.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Augment = Callable[[Tensor, Generator], Tensor]


def warp(pixels: Tensor, generator: Generator, *, turn: float, scale: float, shear: float, shift: float, bend: float) -> Tensor:
    """Return pixels [N, C, H, W] resampled through a random affine map and a smooth random bend, each image its own.

    Arguments:
        turn: largest rotation in degrees. scale: largest share by which a side grows or shrinks. shear: largest shear.
        shift: largest shift, in pixels. bend: standard deviation of the displacement at the knots of a 5x5 mesh, in
            pixels.
    """
    num, _, height, width = pixels.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(num, *shape, generator=generator) * 2 - 1

    angle = draw() * math.radians(turn)
    grow = torch.exp(draw(2) * math.log1p(scale))
    slant = draw() * shear
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # [N, 2, 2]
    shape = torch.stack([torch.stack([grow[:, 0], slant], 1), torch.stack([torch.zeros(num), grow[:, 1]], 1)], 1)
    offset = draw(2) * shift * 2 / torch.tensor([width, height])
    theta = torch.cat([rotation @ shape, offset[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [num, 1, height, width], align_corners=False)
    if bend:
        knots = torch.randn(num, 2, 5, 5, generator=generator) * bend
        field = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=False)
        grid = grid + field.permute(0, 2, 3, 1) * 2 / torch.tensor([width, height])
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def erase(pixels: Tensor, generator: Generator, *, side: int, share: float) -> Tensor:
    """Return pixels [N, C, H, W] with a grey square of `side` pixels put anywhere on a `share` of the images."""
    num, _, height, width = pixels.shape
    top = torch.randint(1 - side, height, (num, 1), generator=generator)
    left = torch.randint(1 - side, width, (num, 1), generator=generator)
    left[torch.rand(num, 1, generator=generator) >= share] = width  # outside: nothing is erased
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside = ((rows >= top) & (rows < top + side))[:, None, :, None] & ((columns >= left) & (columns < left + side))[:, None, None]
    return torch.where(inside, pixels.new_zeros(()), pixels)


def flip(pixels: Tensor, generator: Generator) -> Tensor:
    """Return pixels [N, C, H, W] with every second image, at random, mirrored left to right."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, pixels.flip(3), pixels)


def digits(pixels: Tensor, generator: Generator) -> Tensor:
    """For writing: affine and elastic; no flips."""
    return warp(pixels, generator, turn=15, scale=0.2, shear=0.25, shift=2.5, bend=0.9)


def photos(pixels: Tensor, generator: Generator) -> Tensor:
    """For things and photographs: flips, shifts by whole pixels and a grey square."""
    num, _, height, width = pixels.shape
    padded = F.pad(flip(pixels, generator), (2, 2, 2, 2), mode="reflect")
    rows = torch.randint(0, 5, (num, 1), generator=generator) + torch.arange(height)[None]
    columns = torch.randint(0, 5, (num, 1), generator=generator) + torch.arange(width)[None]
    which = torch.arange(num)[:, None, None]
    moved = padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return erase(moved, generator, side=max(2, min(height, width) // 4), share=0.25)


def nothing(pixels: Tensor, generator: Generator) -> Tensor:
    """For data about which nothing is known."""
    return pixels


AUGMENTS: dict[str, Augment] = {"digits": digits, "photos": photos, "none": nothing}
