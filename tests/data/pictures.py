"""Pictures and folders of pictures for the data tests."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(seed: int = 0, *, side: int = 24, form: str = "PNG") -> bytes:
    """A small picture with soft patches, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(out, form)
    return out.getvalue()


def class_folder(root: Path, num: int, *, classes: int = 4, form: str = "JPEG", side: int = 24) -> Path:
    """`num` pictures in class folders class0, class1, ..."""
    for i in range(num):
        folder = root / f"class{i % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:05}.{'jpg' if form == 'JPEG' else 'png'}").write_bytes(encoded(i, side=side, form=form))
    return root


@contextlib.contextmanager
def little_memory(megabytes: int = 12) -> Iterator[None]:
    """Fails when more than so much is allocated inside at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()
