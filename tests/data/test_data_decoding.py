"""Every mode, orientation and depth comes out right; everything broken comes out with a reason, fast."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, little_memory
from PIL import Image

from limner.data.decoding import UnreadableError, decode, to_shape


def saved(image: Image.Image, form: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))  # [16, 32], dark left, bright right


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode_is_read_as_grey_and_as_colour(mode: str) -> None:
    expected = np.asarray(Image.fromarray(RAMP).convert("1").convert("L")) if mode == "1" else RAMP
    form = {"CMYK": "TIFF", "I": "TIFF", "F": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")
    if mode in ("I;16", "I"):
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert("I")
    elif mode == "F":
        image = Image.fromarray((RAMP / 255).astype(np.float32))
    else:
        image = Image.fromarray(RAMP).convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        data = saved(image, form)
    for channels in (1, 3):
        pixels = decode(data, channels=channels, size=None)
        assert pixels.shape == (channels, 16, 32) and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_what_is_transparent_is_white() -> None:
    colours = np.zeros((8, 8, 4), np.uint8)
    colours[:, :4] = (200, 0, 0, 255)
    pixels = decode(saved(Image.fromarray(colours)), channels=3, size=None)
    assert pixels[:, 0, 0].tolist() == [200, 0, 0] and pixels[:, 0, 7].tolist() == [255, 255, 255]
    palette = Image.fromarray(colours[..., 0]).convert("P")
    pixels = decode(saved(palette, transparency=0), channels=1, size=None)
    assert pixels[0, 0, 7] == 255


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright_whatever_exif_says(turn: int, form: str) -> None:
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :24] = 255  # bright in the upper left
    back = {2: [2], 3: [3], 4: [4], 5: [5], 6: [8], 7: [7], 8: [6]}.get(turn, [])
    moves = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
             5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_90}  # fmt: skip
    image = Image.fromarray(upright)
    for move in back:
        image = image.transpose(moves[move])
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(image, form, exif=exif)
    assert np.abs(decode(data, channels=1, size=None)[0].astype(int) - upright).max() < 40
    small = decode(data, channels=1, size=(16, 24))[0]
    assert small.shape == (16, 24) and small[:6, :10].min() > 200 and small[10:, 14:].max() < 60


def test_the_shorter_side_is_resized_and_the_centre_kept() -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (0, 250, 0)
    for form in ("PNG", "JPEG"):
        pixels = decode(saved(Image.fromarray(wide), form), channels=3, size=(20, 20))
        assert pixels.shape == (3, 20, 20) and pixels[1, :, 2:-2].min() > 240


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    for form in ("PNG", "JPEG"):
        pixels = decode(saved(Image.fromarray(stripes), form), channels=1, size=(32, 32)).astype(int)
        assert np.abs(pixels - 127).max() <= 6


def test_pixels_are_brought_to_shape() -> None:
    assert to_shape(RAMP, channels=1, size=None).shape == (1, 16, 32)
    assert to_shape(RAMP, channels=3, size=(8, 8)).shape == (3, 8, 8)
    assert to_shape(np.stack([RAMP] * 3), channels=1, size=(16, 16)).shape == (1, 16, 16)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (1, 64_000_001)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_decoding(width: int, height: int) -> None:
    data = png_claiming(width, height)
    started = time.monotonic()
    with little_memory(1), pytest.raises(UnreadableError, match="too large"):
        decode(data, channels=3, size=(32, 32))
    assert time.monotonic() - started < 1


def broken() -> dict[str, tuple[bytes, str]]:
    png, jpeg = encoded(side=64), encoded(side=64, form="JPEG")
    return {
        "empty": (b"", "empty file"),
        "text": (b"<html>not found</html>", "not an image"),
        "half a PNG": (png[: len(png) // 2], "damaged or truncated"),
        "half a JPEG": (jpeg[: len(jpeg) // 2], "damaged or truncated"),
        "a flipped PNG": (png[:60] + bytes([png[60] ^ 0xFF]) + png[61:], "damaged or truncated"),
        "zeros": (bytes(1000), "not an image"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "a JPEG's head": (jpeg[:20], "not an image|damaged"),
    }


@pytest.mark.parametrize("what", list(broken()))
def test_what_is_broken_has_a_reason(what: str) -> None:
    data, reason = broken()[what]
    with pytest.raises(UnreadableError, match=reason):
        decode(data, channels=3, size=(16, 16))


def test_a_missing_file_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="no such file"):
        decode(str(tmp_path / "no.png"), channels=3, size=(16, 16))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_an_image_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    raw = bytearray(encoded(1, form=form))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode(bytes(raw), channels=3, size=(8, 8)).shape == (3, 8, 8)
        except UnreadableError as error:
            assert str(error) and "\n" not in str(error)
