"""`folder`: your own pictures in class folders, with metadata.jsonl, or name.txt beside name.jpg; or a zip or tar.

    DIR/cat/1.jpg  DIR/dog/2.jpg                       the folder's name is the class
    DIR/train/cat/1.jpg  DIR/test/dog/2.jpg            likewise, and test (or val) becomes the test split
    DIR/1.jpg  DIR/1.txt                               every line of the text is a caption
    DIR/metadata.jsonl                                 {"file_name": "1.jpg", "text": "..."} or "captions": ["...", ...]

Next: `tables.py`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import PrivateAttr

from limner.data.source import Example, Size, Source, UserPath
from limner.data.splits import choose
from limner.data.tree import MAX_CAPTION_BYTES, MAX_TEXT_BYTES, Entry, FolderTree, Tree, inside, too_large
from limner.errors import DataError, nearest, shorten

METADATA = "metadata.jsonl"
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")
NO_IMAGES = frozenset(
    ".txt .json .jsonl .csv .tsv .md .rst .yaml .yml .xml .html .htm .log".split()  # noqa: SIM905
    + ".py .sh .ini .toml .cfg .lst .sha256 .md5 .db".split()  # noqa: SIM905
)
"""Endings of files that lie beside images and are left alone; everything else is taken for an image."""


class Folder(Source):
    """Pictures in a folder, or in a zip or tar file of one.

    Arguments:
        path: the folder or archive.
    """

    kind: Literal["folder"] = "folder"
    size: Size = 64
    path: UserPath
    _listed: tuple[Tree, list[Entry]] | None = PrivateAttr(None)

    def tree(self) -> Tree:
        """Return the files. Raises: DataError when there is no such folder or archive."""
        if self.path.is_dir():
            return FolderTree(self.path)
        if self.path.is_file():
            from limner.data.archives import open_archive

            return open_archive(self.path)
        raise DataError(f"{self.path}: there is no such folder.{_similar(self.path)}")

    def stamp(self) -> Any:
        """Return every file's name, size and time."""
        if self.path.is_file():
            status = self.path.stat()
            return [status.st_size, status.st_mtime_ns]
        tree = self.tree()
        self._listed = (tree, tree.entries())  # what is stamped is what `examples` then reads
        return self._listed[1]

    def examples(self) -> Iterator[Example]:
        """Yield the images in the order of their paths (in a tar file: in its order)."""
        listed, self._listed = self._listed, None
        tree = listed[0] if listed else self.tree()
        entries = listed[1] if listed else tree.entries()
        found = find(tree, entries, title=str(self.path))
        for path in filter(may_be_image, tree.refused):
            found[path] = Example(None, path, bad=tree.refused[path])
        if not found:
            raise DataError(f"{self.path}: there is not one image in it.")
        names = sorted(found)
        names = [names[i] for i in choose(len(names), self.limit)]
        readable = [name for name in names if not found[name].bad]
        yield from (found[name] for name in names if found[name].bad)
        for name, image, why_not in tree.images(readable):
            example = found[name]
            example.image, example.bad = image, why_not
            yield example


def may_be_image(path: str) -> bool:
    """Return whether a file is taken for an image, by the ending of its name."""
    return posixpath.splitext(path)[1].lower() not in NO_IMAGES


def find(tree: Tree, entries: list[Entry], *, title: str) -> dict[str, Example]:
    """Return an example without image for each file that should be one, by path.

    Raises: DataError when a metadata.jsonl cannot be used.
    """
    sizes = {entry.path: entry.size for entry in entries}
    tables = [path for path in sizes if posixpath.basename(path) == METADATA]
    images = [path for path in sizes if may_be_image(path)]
    texts = {path: posixpath.splitext(path)[0] + ".txt" for path in images}
    if tables:
        found = _from_tables(tree, tables, sizes, title)
        for path in images:
            if path not in found:
                found[path] = Example(None, path, bad=f"{METADATA} has no line for it")
    elif any(text in sizes for text in texts.values()):
        found = {path: _beside(tree, path, text if text in sizes else None) for path, text in texts.items()}
    else:
        found = _from_classes(images)
    for path, example in found.items():
        if not example.bad and path in sizes:
            example.bad = "empty file" if sizes[path] == 0 else too_large(sizes[path])
    return found


def _from_classes(images: list[str]) -> dict[str, Example]:
    """Class folders, with or without train and test above them; without any folder there are no classes."""
    tops = {path.split("/")[0].lower() for path in images if "/" in path}
    divided = bool(tops & set(TRAIN_FOLDERS)) and tops <= {*TRAIN_FOLDERS, *TEST_FOLDERS}
    found = {}
    for path in images:
        parts = path.split("/")
        test = divided and parts[0].lower() in TEST_FOLDERS
        if divided and len(parts) > 1:
            parts = parts[1:]
        if len(parts) > 1:
            found[path] = Example(None, path, parts[0], test=test)
        else:
            found[path] = Example(None, path, test=test, bad="not in the folder of a class" if tops else "")
    if divided and all(example.label is None for example in found.values()):  # train/1.jpg: divided, but no classes
        for example in found.values():
            example.bad = ""
    return found


def _beside(tree: Tree, path: str, text: str | None) -> Example:
    if text is None:
        return Example(None, path, bad=f"no caption: {PurePosixPath(path).stem}.txt is missing")
    try:
        lines = tuple(line.strip() for line in tree.text(text, MAX_CAPTION_BYTES).splitlines() if line.strip())
    except DataError as error:
        return Example(None, path, bad=f"no caption: {error}")
    return Example(None, path, texts=lines, bad="" if lines else f"no caption: {PurePosixPath(text).name} is empty")


def _from_tables(tree: Tree, tables: list[str], sizes: dict[str, int], title: str) -> dict[str, Example]:
    found: dict[str, Example] = {}
    for table in tables:
        above = PurePosixPath(table).parent
        test = bool(above.parts) and above.parts[0].lower() in TEST_FOLDERS
        for number, line in enumerate(tree.text(table, MAX_TEXT_BYTES).split("\n"), start=1):
            if not line.strip():
                continue
            where = f"{title}/{table}, line {number}"
            row = parse_line(line, where=where)
            if "file_name" not in row:
                raise DataError(f"{where}: the key file_name is missing.{nearest('file_name', row)}")
            path = str(above / inside(row.pop("file_name"), where=where))
            label, texts = row.pop("label", None), texts_of(row, where=where)
            if path in found:
                found[path].texts += texts
            else:
                example = Example(None, path, label_of(label, where=where), texts, row, test)
                if path not in sizes:
                    example.bad = tree.refused.get(path) or "no such file"
                found[path] = example
    for example in found.values():
        if not example.bad and not example.texts and example.label is None and not example.attributes:
            example.bad = f"no caption: its line of {METADATA} has neither text nor captions"
    return found


def parse_line(line: str, *, where: str) -> dict[str, Any]:
    """Return the mapping on one line of a JSONL file. Raises: DataError naming `where`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {str(error)[:100]}.") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: a line is {{"file_name": ..., "text": ...}}, this is {shorten(row)}.')
    return row


def texts_of(row: dict[str, Any], *, where: str) -> tuple[str, ...]:
    """Take the texts out of a row: `text`, `caption` or `captions`, a text or a list of texts.

    Raises: DataError naming `where` when it is something else.
    """
    texts: list[str] = []
    for key in ("text", "caption", "captions"):
        value = row.pop(key, None)
        for text in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(text, str):
                raise DataError(f"{where}: {key} must be a text or a list of texts, this is {shorten(value)}.")
            texts.append(text)
    return tuple(text.strip() for text in texts if text.strip())


def label_of(value: Any, *, where: str) -> int | str | None:
    """Return a class by name or number. Raises: DataError naming `where` for anything else."""
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(f"{where}: a label is a name or a number, this is {shorten(value)}.")


def _similar(path: Path) -> str:
    try:
        return nearest(path.name, (other.name for other in path.parent.iterdir()))
    except OSError:
        return ""
