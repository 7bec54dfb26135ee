"""From a file or bytes to pixels of the wanted size, by Pillow; and words for everything that goes wrong on the way.

Only raster formats are opened (never one that runs another program), dimensions are looked at before anything is
decoded, and JPEGs are decoded at the smallest of libjpeg's scales that is not smaller than what is wanted. Next:
`pool.py`.
"""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255, 255)


class UnreadableError(Exception):
    """An image that cannot be used; `str()` is the reason, for a person. Never leaves this package."""


def decode(source: str | Path | bytes, *, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """Return the image as [C, H, W] uint8: upright, over white where transparent, resized and cropped to `size` (H, W).

    The shorter side is resized (bicubic, antialiased) and the centre kept; `size` None keeps the image's own.
    Raises: UnreadableError with the reason: empty, not an image, truncated, too large, ...
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableError(f"too large: {width}x{height} pixels, at most {MAX_PIXELS // 10**6} megapixels are read")
            if image.format == "PNG":
                _whole_png(source)
            turn = _turn(image)
            wanted = size[::-1] if size else (width, height)  # Pillow says (width, height)
            if turn is not None and turn >= 5 and size:
                wanted = wanted[::-1]
            if size and image.format == "JPEG":
                image.draft("L" if channels == 1 else "RGB", wanted)
            return _finish(image, wanted, turn, channels)
    except UnreadableError:
        raise
    except Exception as error:  # noqa: BLE001 (Pillow's decoders may fail in any way on hostile files)
        raise UnreadableError(_reason(source, error)) from None


def fit(image: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """Return the centre of `image` resized to `wanted` (width, height) without distortion."""
    width, height = image.size
    if (width, height) == wanted:
        return image
    scale = min(width / wanted[0], height / wanted[1])
    left, top = (width - wanted[0] * scale) / 2, (height - wanted[1] * scale) / 2
    if scale == 1.0:
        return image.crop((int(left), int(top), int(left) + wanted[0], int(top) + wanted[1]))
    box = (max(left, 0.0), max(top, 0.0), min(width - left, float(width)), min(height - top, float(height)))
    return image.resize(wanted, Image.Resampling.BICUBIC, box=box)


def to_shape(pixels: np.ndarray, *, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """Return pixels [H, W] or [C, H, W] uint8 as [channels, *size] uint8."""
    if pixels.ndim == 2:
        pixels = pixels[None]
    size = size or (pixels.shape[1], pixels.shape[2])
    if pixels.shape == (channels, *size):
        return pixels
    image = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return _planes(fit(image.convert("L" if channels == 1 else "RGB"), size[::-1]))


def _finish(image: Image.Image, wanted: tuple[int, int], turn: int | None, channels: int) -> np.ndarray:
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = _opaque(image)
    image = fit(image, wanted)
    if image.mode != mode:
        image = image.convert(mode)
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    return _planes(image)


def _planes(image: Image.Image) -> np.ndarray:
    width, height = image.size
    pixels = np.frombuffer(image.tobytes(), np.uint8)  # twice as fast as np.asarray for small images
    return pixels.reshape(1, height, width) if image.mode == "L" else pixels.reshape(height, width, 3).transpose(2, 0, 1)


def _whole_png(source: str | Path | bytes) -> None:
    """Compare the checksums of the chunks that carry pixels: a decoder may read on over flipped bytes unawares."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    at, name = 8, b""
    while name != b"IEND":
        name, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if len(data) < end + 4:
            raise UnreadableError("damaged or truncated: the PNG ends early")
        if name[:1].isupper() and zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise UnreadableError(f"damaged or truncated: the PNG's checksum of {name.decode('ascii', 'replace')} is wrong")
        at = end + 4


def _turn(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8; None where there is none or the EXIF data make no sense."""
    if "exif" not in image.info and image.format not in ("TIFF", "PNG"):
        return None
    try:
        turn = image.getexif().get(_ORIENTATION)
        return turn if isinstance(turn, int) and turn in _TURNS else None
    except Exception:  # noqa: BLE001 (damaged EXIF data do not make an image unreadable)
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, without alpha, palette, or more than 8 bits."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _eight_bits(image)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    if mode in ("L", "1"):
        return image.convert("L")
    return image if mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit integers by 1/257, 32-bit ones too when they exceed 255, and floats in [0, 1] by 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=math.inf, neginf=0.0)
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        values = values / 257.0
    elif image.mode == "F" and top <= 1.0:
        values = values * 255.0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _reason(source: str | Path | bytes, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: at most {MAX_PIXELS // 10**6} megapixels are read"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    try:
        length = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    except OSError:
        length = -1
    if length == 0:
        return "empty file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image (JPEG, PNG, WebP, BMP, GIF, TIFF or PPM)"
    words = " ".join(str(error).split())[:120]
    return f"damaged or truncated: {words or type(error).__name__}"
