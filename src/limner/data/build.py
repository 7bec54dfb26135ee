"""Building a store: examples in, one folder out, whole or absent.

Everything is written to a temporary folder, flushed to the disk, and renamed. A lock keeps two processes from doing the
same work twice; it goes with the process, so a killed build leaves only a temporary folder, which the next one removes.
Next: `pool.py`, where the decoding is shared out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from limner.data.captions import CLASS_FIELDS, class_values, fields_of, render
from limner.data.decoding import UnreadableError, decode, to_shape
from limner.data.pool import Pool
from limner.data.source import Example, Source
from limner.data.store import FORMAT, BadFile, BadFilesError, DamagedError, Store, canonical, sealed, sha256_of
from limner.data.worker import write_at
from limner.errors import DataError, shorten

log = logging.getLogger("limner.data")

NOT_CONTENT = ("judge", "test", "max_bad")  # keys that do not change what is stored
SHOWN = 5  # bad files named in a message


def open_or_build(source: Source, cache: Path, *, processes: int | None = None) -> Store:
    """Return the source's store in the folder `cache`, building it unless it is there and whole.

    Raises: DataError when the source cannot be read, captions are missing, too many files are bad, or the disk is full.
    """
    source = source.model_copy()  # a source may keep notes while it is read; the caller's stays as it was
    config = source.model_dump(mode="json", exclude=set(NOT_CONTENT))
    paths = {key: str(value.resolve()) for key, value in source if isinstance(value, Path)}
    key = hashlib.sha256(canonical([FORMAT, config, paths, source.stamp()])).hexdigest()
    folder = cache / f"{Path(source.kind).name.replace(':', '-')}-{key[:16]}"
    covered = {**source.model_dump(mode="json"), **{name: None for name in paths}}

    def read() -> Store:
        return Store.read(folder, judge=source.judge, test=source.test, fingerprint_of=covered)

    notices = []
    try:
        store = read()
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(cache / f".{folder.name}.lock"):
                try:
                    store = read()  # another process may have built it meanwhile
                except (FileNotFoundError, DamagedError) as error:
                    if isinstance(error, DamagedError) or folder.exists():
                        notices = [f"{folder}: the store is damaged ({error}) and is built again."]
                        log.warning(notices[0])
                    _build(source, folder, config, processes or os.cpu_count() or 1)
                    store = read()
        except OSError as error:
            where = getattr(error, "filename", None) or cache
            raise DataError(f"{where}: the store cannot be written: {error.strerror or error}. Choose another cache.") from error
    store.notices += notices
    _refuse_too_many_bad(store, source.max_bad)
    return store


def _build(source: Source, folder: Path, config: dict[str, Any], processes: int) -> None:
    for stale in folder.parent.glob(f".{folder.name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
    try:
        _fill(source, temporary, config, processes)
        _sync(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(source: Source, folder: Path, config: dict[str, Any], processes: int) -> None:
    """Write all files of the store into the empty `folder`."""
    images = folder / "images.u8"
    images.touch()
    found, bad, shape = _decode_all(source, images, processes)
    keep = [row for row in range(len(found)) if row not in bad]
    bad_files = sorted(BadFile(found[row].name, reason) for row, reason in bad.items())
    if not keep:
        raise BadFilesError(f"{_title(source)}: not one image can be read.\n{_shown(bad_files)}".rstrip(), bad_files)
    _compact(images, keep, int(np.prod(shape)))
    kept = [found[row] for row in keep]
    labels, class_names = _labels(source, kept)
    groups, group, by_class = _captions(source, kept, labels, class_names)
    np.save(folder / "labels.npy", labels, allow_pickle=False)
    np.save(folder / "groups.npy", group, allow_pickle=False)
    np.save(folder / "tests.npy", np.array([example.test for example in kept], bool), allow_pickle=False)
    (folder / "captions.json").write_text(json.dumps({"groups": groups, "by_class": by_class}))
    (folder / "names.json").write_text(json.dumps([example.name for example in kept]))
    if any(example.attributes for example in kept):
        with (folder / "attributes.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(dict(example.attributes)) + "\n" for example in kept)
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}
    meta = {
        "format": FORMAT,
        "kind": source.kind,
        "config": config,
        "count": len(kept),
        "shape": shape,
        "class_names": class_names,
        "bad": bad_files,
        "files": files,
    }
    (folder / "meta.json").write_bytes(sealed(meta))


def _decode_all(source: Source, images: Path, processes: int) -> tuple[list[Example], dict[int, str], tuple[int, int, int]]:
    """Write every example's pixels to its row; return the examples (without images), the bad rows and the shape."""
    found: list[Example] = []
    bad: dict[int, str] = {}
    shape = source.shape
    pool: Pool | None = None
    own_size = source.size is None
    size = None if own_size else shape[1:] if shape else None
    started = said = time.monotonic()
    fd = os.open(images, os.O_WRONLY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        for row, example in enumerate(source.examples()):
            image, example.image = example.image, None
            found.append(example)
            if image is None:
                bad[row] = example.bad or "no image"
                continue
            try:
                pixels = to_shape(image, channels=source.channels, size=size) if isinstance(image, np.ndarray) else None
                if pixels is None and shape is None:
                    shape = _shape_of(image, source.channels)
                elif pixels is not None:
                    shape = shape or pixels.shape  # type: ignore[assignment]
                    if pixels.shape != shape:
                        raise UnreadableError(f"shape {pixels.shape}, the others {shape}: give a `size`")
                    write_at(fd, memoryview(np.ascontiguousarray(pixels).data).cast("B"), row * pixels.size)
                    continue
            except UnreadableError as error:
                bad[row] = str(error)
                continue
            if pool is None:
                assert shape is not None
                pool = stack.enter_context(Pool(images, shape, own_size=own_size, processes=processes))
            assert not isinstance(image, np.ndarray)
            pool.put(row, image)
            if time.monotonic() - said > 5:
                said = time.monotonic()
                log.info("%s: %d images read, %.0f a second", _title(source), row + 1, (row + 1) / (said - started))
        if pool is not None:
            bad.update(pool.finish())
        if shape is not None:
            os.ftruncate(fd, len(found) * int(np.prod(shape)))
    return found, bad, shape or (source.channels, 0, 0)


def _shape_of(image: str | bytes | np.ndarray, channels: int) -> tuple[int, int, int]:
    assert not isinstance(image, np.ndarray)
    pixels = decode(image, channels=channels, size=None)
    return (channels, pixels.shape[1], pixels.shape[2])


def _compact(images: Path, keep: list[int], row_size: int) -> None:
    """Move the kept rows together, in their order, and cut the file."""
    with images.open("r+b") as file:
        first = next((new for new, old in enumerate(keep) if new != old), len(keep))
        for new in range(first, len(keep)):
            file.seek(keep[new] * row_size)
            row = file.read(row_size)
            file.seek(new * row_size)
            file.write(row)
        file.truncate(len(keep) * row_size)


def _labels(source: Source, kept: list[Example]) -> tuple[np.ndarray, list[str]]:
    """Return labels [N] int64 and the classes' names; names on examples are looked up, or collected and sorted."""
    declared = source.class_names()
    names = list(declared or ())
    if declared is None:
        given = {example.label for example in kept if isinstance(example.label, str)}
        names = sorted(given, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    index = {name: label for label, name in enumerate(names)}
    labels = np.full(len(kept), -1, np.int64)
    for row, example in enumerate(kept):
        label = example.label
        if isinstance(label, str):
            if label not in index:
                raise DataError(f"{example.name}: class {shorten(label)} is none of {shorten(names, 200)}.")
            labels[row] = index[label]
        elif label is not None:
            if label < 0 or (names and label >= len(names)):
                raise DataError(f"{example.name}: label {label}, but there are {len(names)} class names: {shorten(names, 200)}.")
            labels[row] = label
    if not names and labels.max(initial=-1) >= 0:
        names = [str(label) for label in range(int(labels.max()) + 1)]
    return labels, names


def _captions(
    source: Source, kept: list[Example], labels: np.ndarray, class_names: list[str]
) -> tuple[list[list[str]], np.ndarray, list[list[str]]]:
    """Return the groups of captions, the group of each image, and the captions of each class.

    Raises: DataError when an image has no caption or a template's field no value.
    """
    templates = source.wording()
    if not templates:
        templates = ("{text}",) if any(example.texts for example in kept) else ("a photo of a {word}",)
        if templates[0] != "{text}" and not class_names:
            raise DataError(
                f"{_title(source)}: captions are missing: there are neither texts nor classes.\n"
                "Put the images into one folder a class, or name.txt beside name.jpg, or a metadata.jsonl with lines "
                '{"file_name": ..., "text": ...}; or give `captions`, such as captions: ["a photo"].'
            )
    about_class = [template for template in templates if fields_of([template]) <= set(CLASS_FIELDS)]
    by_class = []
    if any(fields_of([template]) for template in about_class):
        by_class = [render(about_class, class_values(class_names, label)) for label in range(len(class_names))]
    per_class = len(about_class) == len(templates) and bool(by_class)
    numbers: dict[tuple[str, ...], int] = {}
    group = np.zeros(len(kept), np.int64)
    for row, example in enumerate(kept):
        label = int(labels[row])
        if per_class and label >= 0:
            captions = by_class[label]
        else:
            values = {k: str(v) for k, v in example.attributes.items() if isinstance(v, str | int | float)}
            captions = render(templates, {**values, **class_values(class_names, label)}, example.texts, where=example.name)
        if not captions:
            missing = sum(not any(text.strip() for text in other.texts) for other in kept)
            raise DataError(
                f"{_title(source)}: {missing} of {len(kept)} images have no caption, the first is {example.name}.\n"
                'Give each a text, or templates without {text}: captions: ["a photo of a {class}"].'
            )
        group[row] = numbers.setdefault(tuple(captions), len(numbers))
    return [list(captions) for captions in numbers], group, by_class


def _refuse_too_many_bad(store: Store, max_bad: float) -> None:
    total = len(store) + len(store.bad)
    if len(store.bad) > max_bad * total:
        raise BadFilesError(
            f"{len(store.bad)} of {total} files cannot be used, more than max_bad={max_bad:g} allows:\n"
            f"{_shown(store.bad)}\nMend or remove them, or allow more with max_bad. "
            f"The whole list: {store.folder / 'meta.json'}, key bad.",
            store.bad,
        )


def _shown(bad: list[BadFile]) -> str:
    lines = [f"  {path if len(path) < 160 else '...' + path[-157:]}: {reason[:160]}" for path, reason in bad[:SHOWN]]
    return "\n".join(lines + ([f"  ... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []))


def _title(source: Source) -> str:
    return str(next((value for _, value in source if isinstance(value, Path)), source.kind))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while inside; where the file system knows no locks, go on without."""
    with path.open("w") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(folder: Path) -> None:
    """Flush a folder's files, then the folder itself, to the disk."""
    for path in [*(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
