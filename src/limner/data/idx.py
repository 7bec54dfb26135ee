"""`idx`: MNIST-like files in LeCun's IDX format, gzipped or not: MNIST, Fashion-MNIST, KMNIST, and your own.

    bytes 0-1  zero        2  type of the numbers (0x08: unsigned byte)        3  number of dimensions n
    4 to 4+4n  the dimensions, big-endian 32 bits        then the numbers, the last dimension fastest

Source: http://yann.lecun.com/exdb/mnist/ (the format's description). Next: `folder.py`.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pydantic import Field, model_validator

from limner.data.digits import DIGIT_CAPTIONS
from limner.data.source import Example, Size, Source, UserPath
from limner.data.splits import choose
from limner.errors import ConfigError, DataError, MissingError

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
KNOWN = {"mnist": tuple("0123456789"), "fashion-mnist": FASHION}
FOLDERS = {
    "mnist": ("/usr/share/datasets/mnist", "data/mnist"),
    "fashion-mnist": ("/usr/share/datasets/fashion-mnist", "data/fashion-mnist"),
}
ADVICE = {
    "mnist": "Put the four MNIST files into data/mnist, or name their folder with `path`.",
    "fashion-mnist": "apt-get install dataset-fashion-mnist, or put its four files into data/fashion-mnist, "
    "or name their folder with `path`.",
}
CLOTHES_CAPTIONS = (
    "a photo of a {class}",
    "a picture of a {class}",
    "a grey photo of a {class}",
    "a {class} on a black background",
    "one {class}",
    "a {class}",
    "{class}",
    "the item of clothing is a {class}",
)
MAX_IMAGES = 100_000_000
MAX_SIDE = 8192
MAX_RATIO = 1040  # deflate cannot shrink further than 1032 times


class Idx(Source):
    """Images and labels in IDX files: `train-images-idx3-ubyte[.gz]` and so on; t10k files become the test split.

    Arguments:
        name: "mnist" or "fashion-mnist": where to look when `path` is not given, and the classes' names.
        path: the folder of the files.
        classes: the classes' names; default those of `name`, else the labels' numbers.
    """

    kind: Literal["idx"] = "idx"
    size: Size = None
    channels: Literal[1, 3] = 1
    name: Literal["mnist", "fashion-mnist"] | None = None
    path: UserPath | None = None
    classes: tuple[str, ...] = Field((), max_length=100_000)

    @model_validator(mode="after")
    def _named(self) -> Idx:
        if self.name is None and self.path is None:
            raise ConfigError(f"idx: give `path`, the folder of the files, or `name`: {', '.join(KNOWN)}.")
        return self

    def wording(self) -> tuple[str, ...]:
        """Return the templates given, or those that suit `name`."""
        return self.captions or {"mnist": DIGIT_CAPTIONS, "fashion-mnist": CLOTHES_CAPTIONS}.get(self.name or "", ())

    def class_names(self) -> tuple[str, ...] | None:
        """Return `classes`, or those of `name`; None for the labels' numbers."""
        return self.classes or KNOWN.get(self.name or "")

    def stamp(self) -> Any:
        """Return names, sizes and times of the files."""
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for pair in self.pairs() for path in pair[:2]]

    def folder(self) -> Path:
        """Return where the files are. Raises: DataError for a wrong `path`, MissingError when `name` is nowhere."""
        if self.path is not None:
            if not self.path.is_dir():
                raise DataError(f"{self.path}: there is no such folder. It should hold train-images-idx3-ubyte and the like.")
            return self.path
        assert self.name is not None
        for place in map(Path, FOLDERS[self.name]):
            if place.is_dir() and _image_files(place):
                return place
        raise MissingError(f"{self.name}: not found in {' or '.join(FOLDERS[self.name])}.\n{ADVICE[self.name]}")

    def pairs(self) -> list[tuple[Path, Path, bool]]:
        """Return (images, labels, is it the test set) of each pair of files.

        Raises: DataError when there is none, a labels file is missing, or there are several training sets.
        """
        folder = self.folder()
        pairs: dict[bool, tuple[Path, Path, bool]] = {}
        for images in _image_files(folder):
            test = "t10k" in images.name or "test" in images.name
            if test in pairs:
                raise DataError(f"{folder}: {pairs[test][0].name} and {images.name}: leave only one of them in this folder.")
            wanted = _stem(images).replace("images", "labels").replace("idx3", "idx1")
            labels = next((path for path in sorted(folder.iterdir()) if _stem(path) == wanted), None)
            if labels is None:
                raise DataError(f"{images}: its labels, {wanted} or {wanted}.gz, are missing from this folder.")
            pairs[test] = (images, labels, test)
        if not pairs:
            raise DataError(f"{folder}: there is no *images*idx3* file, such as train-images-idx3-ubyte.gz, in it.")
        return [pairs[test] for test in sorted(pairs)]

    def examples(self) -> Iterator[Example]:
        """Yield the training set's images, then the test set's; `limit` takes the same share of each."""
        pairs = self.pairs()
        counts = [_count(images_path) for images_path, _, _ in pairs]
        for (images_path, labels_path, test), count in zip(pairs, counts, strict=True):
            limit = None if self.limit is None else round(self.limit * count / sum(counts))
            with open_idx(images_path) as images, open_idx(labels_path) as labels:
                num, *shape = read_header(images, images_path, dims=3)
                (num_labels,) = read_header(labels, labels_path, dims=1)
                if num != num_labels:
                    raise DataError(f"{images_path}: {num} images, but {labels_path.name} has {num_labels} labels.")
                values = np.frombuffer(_exactly(labels, num, labels_path), np.uint8)
                wanted = choose(num, limit).tolist()
                place = 0
                for i in range(num):
                    pixels = _exactly(images, shape[0] * shape[1], images_path)
                    if place < len(wanted) and wanted[place] == i:
                        place += 1
                        image = np.frombuffer(pixels, np.uint8).reshape(shape)
                        yield Example(image, f"{images_path.name}[{i}]", int(values[i]), test=test)
                for file, path in ((images, images_path), (labels, labels_path)):
                    if _read(file, 1, path):
                        raise DataError(f"{path}: there are more bytes than its header says. Fetch the file again.")


def open_idx(path: Path) -> BinaryIO:
    """Open an IDX file for reading, through gzip when it is gzipped."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if gzipped else path.open("rb")  # type: ignore[return-value]


def read_header(file: BinaryIO, path: Path, *, dims: int) -> list[int]:
    """Return the dimensions of an IDX file of unsigned bytes; nothing is allocated for its contents.

    Raises: DataError for another magic number or type, other than `dims` dimensions, absurd ones, or ones that a file
        of this size cannot hold.
    """
    head = _exactly(file, 4, path)
    if head[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file: it begins with {head.hex(' ')}, and should with 00 00 08 {dims:02x}.")
    if head[2] != 8 or head[3] != dims:
        raise DataError(
            f"{path}: type 0x{head[2]:02x}, {head[3]} dimensions; only unsigned bytes (0x08) with {dims} are read here."
        )
    shape = np.frombuffer(_exactly(file, 4 * dims, path), ">u4").astype(object).tolist()
    if not 0 < shape[0] <= MAX_IMAGES or any(not 0 < side <= MAX_SIDE for side in shape[1:]):
        raise DataError(f"{path}: its header says {' x '.join(map(str, shape))}, which cannot be. Fetch the file again.")
    claimed, size = 4 + 4 * dims + math.prod(shape), path.stat().st_size
    if isinstance(file, gzip.GzipFile):
        if claimed > MAX_RATIO * size:
            raise DataError(f"{path}: its header says {claimed} bytes, which {size} gzipped bytes cannot hold. Fetch it again.")
    elif claimed != size:
        fault = "truncated" if size < claimed else "too long"
        raise DataError(f"{path}: {fault}: its header says {claimed} bytes, the file has {size}. Fetch it again.")
    return shape


def _count(path: Path) -> int:
    with open_idx(path) as file:
        return read_header(file, path, dims=3)[0]


def _exactly(file: BinaryIO, num_bytes: int, path: Path) -> bytes:
    data = _read(file, num_bytes, path)
    if len(data) < num_bytes:
        raise DataError(f"{path}: truncated: it ends before its header says. Fetch the file again.")
    return data


def _read(file: BinaryIO, num_bytes: int, path: Path) -> bytes:
    try:
        return file.read(num_bytes)
    except EOFError:
        raise DataError(f"{path}: truncated: its gzip stream ends early. Fetch the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: its gzip stream is damaged: {error}. Fetch the file again.") from None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _image_files(folder: Path) -> list[Path]:
    """Return the files of images, a plain one before its gzipped twin, which is left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if "images" in path.name and "idx3" in path.name and path.is_file():
            found.setdefault(_stem(path), path)
    return list(found.values())
