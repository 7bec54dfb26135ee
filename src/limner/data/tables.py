"""`jsonl`, `csv` and `parquet`: tables whose rows name an image, its texts and its class, in columns that you name.

Images are paths relative to the table's folder (or to `images`), and in parquet also bytes, alone or as Hugging Face
`datasets` writes them ({"bytes": ..., "path": ...}). Next: `hub.py`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from limner.data.decoding import MAX_BYTES
from limner.data.folder import label_of, parse_line
from limner.data.source import Example, Size, Source, UserPath
from limner.data.tree import MAX_TEXT_BYTES, decoded, inside, too_large
from limner.errors import DataError, MissingError, nearest, shorten

MAX_ATTRIBUTE = 4096  # characters of a value that is kept as an attribute


class Columns(Source):
    """What all tables share: the names of their columns.

    Arguments:
        image: the column of the image; None takes the only one of the usual names that is there.
        text: the columns of texts (a text or a list of texts each); None takes those of the usual names that are there.
        label: the column of the class, by name or number; None is no class.
        classes: the classes' names by number.
    """

    size: Size = 64
    image: str | None = None
    text: tuple[str, ...] | None = None
    label: str | None = None
    classes: tuple[str, ...] = ()

    def class_names(self) -> tuple[str, ...] | None:
        """Return `classes`, or None."""
        return self.classes or None


IMAGE_COLUMNS = ("image", "file_name", "path", "filename", "img", "jpg")
TEXT_COLUMNS = ("text", "caption", "captions", "sentence", "sentences")


class Roles:
    """Which column plays which part, decided once from the columns there are.

    Raises: DataError naming a column that is not there and the nearest ones.
    """

    def __init__(self, source: Columns, columns: Iterable[str], *, where: str) -> None:
        self.columns = list(columns)
        self.where = where
        self.image = self._need(source.image, "image") if source.image else self._guess(IMAGE_COLUMNS)
        wanted = source.text if source.text is not None else [name for name in TEXT_COLUMNS if name in self.columns]
        self.texts = [self._need(name, "text") for name in wanted]
        self.label = self._need(source.label, "label") if source.label else None

    def _need(self, name: str, part: str) -> str:
        if name not in self.columns:
            raise DataError(
                f"{self.where}: there is no column {name!r} ({part}).{nearest(name, self.columns)} "
                f"Columns: {shorten(', '.join(self.columns), 300)}."
            )
        return name

    def _guess(self, names: Iterable[str]) -> str:
        found = [name for name in names if name in self.columns]
        if not found:
            raise DataError(
                f"{self.where}: which column holds the image? Name it with `image`. "
                f"Columns: {shorten(', '.join(self.columns), 300)}."
            )
        return found[0]

    def example(self, row: Mapping[str, Any], *, name: str, folder: Path | None) -> Example:
        """Return the example of a row; a row that cannot be used is marked bad."""
        example = Example(None, name)
        try:
            example.texts = tuple(text for column in self.texts for text in _texts(row.get(column), f"{name}: {column}"))
            example.label = label_of(row.get(self.label), where=name) if self.label else None
            example.image, path = _image(row.get(self.image), name, folder)
            example.name = path or name
            if self.texts and not example.texts:
                raise DataError(f"no caption in {', '.join(self.texts)}")
        except DataError as error:
            example.image, example.bad = None, str(error)[:200]
        taken = {self.image, self.label, *self.texts}
        example.attributes = {
            key: value
            for key, value in row.items()
            if key not in taken and isinstance(value, str | int | float) and len(str(value)) <= MAX_ATTRIBUTE
        }
        return example


def _texts(value: Any, where: str) -> list[str]:
    if isinstance(value, Mapping):  # {"raw": [...]}, as some hub sets have it
        value = value.get("raw")
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in values):
        raise DataError(f"{where}: expected a text or a list of texts, this is {shorten(value)}")
    return [text.strip() for text in values if text.strip()]


def _image(value: Any, where: str, folder: Path | None) -> tuple[str | bytes, str]:
    """Return the image (a file's place or its bytes) and its path when it has one."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        value = data if data is not None else path
    if isinstance(value, bytes):
        if not value or too_large(len(value)):
            raise DataError(too_large(len(value)) or "empty image")
        return value, ""
    if folder is None:
        raise DataError(f"no image: {shorten(value)}")
    path = inside(value, where=where)
    place = os.path.join(folder, path)
    if not os.path.realpath(place).startswith(os.path.realpath(folder) + os.sep):
        raise DataError(f"{path} leads out of the folder")
    try:
        status = os.stat(place)
    except OSError:
        raise DataError("no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file")
    if status.st_size == 0 or status.st_size > MAX_BYTES:
        raise DataError(too_large(status.st_size) or "empty file")
    return place, path


class Table(Columns):
    """A table file with image paths.

    Arguments:
        path: the table.
        images: the folder that the images' paths are relative to; None is the table's own.
    """

    path: UserPath
    images: UserPath | None = None

    def stamp(self) -> Any:
        """Return the table's size and time, and those of every image it names."""
        self._exists()
        status = self.path.stat()
        folder = self.images or self.path.parent
        found = []
        for row in self.rows():
            for value in row.values():
                if isinstance(value, str) and len(value) < 1024 and "\0" not in value:
                    try:
                        image = os.stat(os.path.join(folder, value))
                    except OSError:
                        continue
                    if stat.S_ISREG(image.st_mode):
                        found.append([value, image.st_size, image.st_mtime_ns])
        return [status.st_size, status.st_mtime_ns, found]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as mappings, all with the same keys."""
        raise NotImplementedError

    def examples(self) -> Iterator[Example]:
        """Yield the rows' examples in order; `limit` takes the first."""
        self._exists()
        folder = self.images or self.path.parent
        roles: Roles | None = None
        for number, row in enumerate(islice(self.rows(), self.limit), start=1):
            roles = roles or Roles(self, row, where=str(self.path))
            yield roles.example(row, name=f"{self.path.name}, row {number}", folder=folder)
        if roles is None:
            raise DataError(f"{self.path}: there is not one row in it.")

    def _exists(self) -> None:
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file.")
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"{self.images}: there is no such folder (images).")

    def _lines(self) -> io.StringIO:
        if self.path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"{self.path}: more than {MAX_TEXT_BYTES} bytes; use parquet or webdataset for so much.")
        return io.StringIO(decoded(self.path.read_bytes(), str(self.path)), newline="")


class Jsonl(Table):
    """One JSON object a line: {"image": "a.jpg", "text": "..."}."""

    kind: Literal["jsonl"] = "jsonl"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the lines' objects."""
        for number, line in enumerate(self._lines(), start=1):
            if line.strip():
                yield parse_line(line, where=f"{self.path}, line {number}")


class Csv(Table):
    """Comma-separated values with a line of column names; .tsv files are separated by tabs."""

    kind: Literal["csv"] = "csv"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        tabs = self.path.suffix.lower() == ".tsv"
        try:
            reader = csv.DictReader(self._lines(), delimiter="\t" if tabs else ",", strict=True)
            for row in reader:
                if None in row:
                    raise DataError(f"{self.path}, line {reader.line_num}: more values than the first line has columns.")
                yield {key: value for key, value in row.items() if value is not None}
        except csv.Error as error:
            raise DataError(f"{self.path}: not a table of comma-separated values: {error}.") from None


class Parquet(Table):
    """A parquet file, or a folder of them; images as bytes or as paths."""

    kind: Literal["parquet"] = "parquet"

    def class_names(self) -> tuple[str, ...] | None:
        """Return `classes`, or those that the library `datasets` noted in the file for the column `label`, or None."""
        if self.classes or not self.label:
            return self.classes or None
        pq = _parquet()
        try:
            with pq.ParquetFile(self.files()[0]) as table:
                noted = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            names = noted["info"]["features"][self.label]["names"]
        except (KeyError, TypeError, ValueError, IndexError, OSError):
            return None
        return tuple(map(str, names))

    def files(self) -> list[Path]:
        """Return the parquet files in order."""
        return sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]

    def stamp(self) -> Any:
        """Return the files' names, sizes and times."""
        self._exists()
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in self.files()]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, 64 in memory at a time. Raises: MissingError without pyarrow, DataError for damaged files."""
        pq = _parquet()
        from pyarrow import ArrowException

        for file in self.files():
            try:
                with pq.ParquetFile(file) as table:
                    for batch in table.iter_batches(batch_size=64):
                        yield from batch.to_pylist()
            except (ArrowException, OSError) as error:
                raise DataError(f"{file}: not a whole parquet file: {str(error).splitlines()[0][:120]}.") from None

    def _exists(self) -> None:
        if not (self.path.is_file() or (self.path.is_dir() and self.files())):
            raise DataError(f"{self.path}: there is no such parquet file, nor a folder of them.")


def _parquet() -> Any:
    """The module pyarrow.parquet. Raises: MissingError."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingError("parquet: the library pyarrow is missing: pip install pyarrow") from None
    return parquet
