"""Pictures on disk -> arrays, for `limner eval --images DIR --references DIR`. Next: `run.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from limner.errors import EvaluationError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SHEETS = ("grid.png", "curves.png")  # what `limner sample` and `limner sweep` write beside single pictures
MOST_PIXELS = 64_000_000


def find(folder: Path) -> list[Path]:
    """Return the pictures in a folder and its subfolders, sorted by name; sheets of several are left out.

    Raises: EvaluationError when there is no such folder or fewer than 2 pictures in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: there is no such folder of pictures.")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name not in SHEETS and p.is_file())
    if len(found) < 2:
        what = "is empty: no picture is" if not found else "has one picture"
        raise EvaluationError(f"{folder}: {what} in it ({', '.join(SUFFIXES)}); a distance needs two or more.")
    return found


def read(paths: list[Path], *, size: int | None = None, channels: int | None = None) -> np.ndarray:
    """Return pictures [N, C, H, W] uint8.

    Arguments:
        size: side that every picture is resized to (bicubic with antialiasing); None demands equal sizes.
        channels: 1 or 3; None takes 1 where all pictures are grey.
    Raises: EvaluationError naming the first picture that cannot be read, is too large or of another size.
    """
    pictures = [_open(path, size) for path in paths]
    grey = channels == 1 or (channels is None and all(picture.mode in ("1", "L") for picture in pictures))
    first = pictures[0].size
    for path, picture in zip(paths, pictures, strict=True):
        if picture.size != first:
            raise EvaluationError(
                f"{path}: {picture.width}x{picture.height}, but {paths[0].name} is {first[0]}x{first[1]}. "
                "Resize all alike, or say to which side: --size N."
            )
    arrays = [np.asarray(picture.convert("L" if grey else "RGB")) for picture in pictures]
    stacked = np.stack(arrays)
    return stacked[:, None] if grey else np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def _open(path: Path, size: int | None) -> Image.Image:
    try:
        with Image.open(path) as file:
            if file.width * file.height > MOST_PIXELS:
                raise EvaluationError(f"{path}: {file.width}x{file.height} is larger than {MOST_PIXELS} pixels.")
            file.load()
            picture = file.copy() if file.mode == "L" else file.convert("L" if file.mode == "1" else "RGB")
            return picture.resize((size, size), Image.Resampling.BICUBIC) if size else picture
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path}: cannot be read as a picture: {error}") from error
