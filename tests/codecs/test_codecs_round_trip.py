"""Pixels to latents and back, without loss, in one value range."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limner.codecs import CODECS, Patches, Pixels
from limner.errors import ConfigError

ALL = [Pixels(), Patches(size=2), Patches(size=4)]


@pytest.mark.parametrize("codec", ALL, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_byte_comes_back_exactly(codec: Any, channels: int) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, channels, 1, 1)
    pixels[1] = pixels[1].flip(-1)
    latents = codec.encode(pixels)
    assert latents.dtype == torch.float32 and latents.shape == (2, *codec.latent_shape(channels, (16, 16)))
    assert torch.equal(codec.decode(latents), pixels)


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_black_is_minus_one_and_white_is_one(codec: Any) -> None:
    for value, level in ((0, -1.0), (255, 1.0)):
        latents = codec.encode(torch.full((1, 1, 8, 8), value, dtype=torch.uint8))
        assert latents.min() == latents.max() == level


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_decoding_clips_and_rounds(codec: Any) -> None:
    shape = (1, *codec.latent_shape(1, (8, 8)))
    for level, value in ((-7.0, 0), (7.0, 255), (0.0, 128), (-1 + 1.4 / 127.5, 1), (1 - 1.6 / 127.5, 253)):
        assert codec.decode(torch.full(shape, level)).unique().tolist() == [value]


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_clipping_leaves_data_alone_and_bounds_the_rest(codec: Any) -> None:
    x = torch.linspace(-3, 3, 64).reshape(1, *codec.latent_shape(1, (8, 8)))
    clipped = codec.clip(x)
    assert clipped.min() == -1 and clipped.max() == 1
    inside = x.abs() <= 1
    assert torch.equal(clipped[inside], x[inside])


def test_half_precision_latents_decode_to_the_nearest_bytes() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for codec in ALL:
        found = codec.decode(codec.encode(pixels).to(torch.bfloat16)).int()
        assert (found - pixels.int()).abs().max() <= 1


def test_patches_keep_neighbours_together() -> None:
    pixels = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    latents = Patches(size=2).encode(pixels)
    block = ((latents[0, :, 0, 1] + 1) * 127.5).round().tolist()
    assert block == [2, 3, 6, 7]


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="28x30 do not divide by 4"):
        Patches(size=4).latent_shape(1, (28, 30))


def test_an_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'pixels'"):
        CODECS.parse("pixel")
