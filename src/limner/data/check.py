"""`limner data check`: what a source holds before anything trains on it: counts, captions, duplicates, bad files.

Next: `command.py`, which prints it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limner.data.source import Source
from limner.data.splits import SPLITS
from limner.data.store import BadFile, Store


@dataclass(frozen=True)
class Checked:
    """What was found in a source.

    Arguments:
        kind: of the source. count: its images. shape: [C, H, W] of each.
        splits: images of each split. classes: images of each class, by name.
        num_captions: distinct captions. captions_per_image: least and most. words: distinct words. longest: the longest
            caption, in characters. examples: some captions.
        duplicates: groups of images with the same pixels, by name. leaks: how many images of judge or test have a twin
            in train.
        constant: images of one value only, by name. mean, std: of all pixels, by channel, in [0, 1].
        bad: the files left out. folder: of the store. fingerprint: of config and content.
    """

    kind: str
    count: int
    shape: tuple[int, int, int]
    splits: dict[str, int]
    classes: dict[str, int]
    num_captions: int
    captions_per_image: tuple[int, int]
    words: int
    longest: int
    examples: list[str]
    duplicates: list[list[str]]
    leaks: int
    constant: list[str]
    mean: list[float]
    std: list[float]
    bad: list[BadFile]
    folder: Path
    fingerprint: str

    def lines(self, limit: int = 10) -> list[str]:
        """Return the findings in words, lists cut to `limit` entries."""
        channels, height, width = self.shape
        out = [
            f"{self.count} images of {width}x{height} pixels, {'grey' if channels == 1 else 'RGB'} ({self.kind})",
            "splits: " + ", ".join(f"{name} {num}" for name, num in self.splits.items()),
        ]
        if self.classes:
            shown = [f"{name} {num}" for name, num in list(self.classes.items())[:limit]]
            out.append(f"{len(self.classes)} classes: {_cut(shown, len(self.classes), limit, ', ')}")
        fewest, most = self.captions_per_image
        each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        out.append(f"{self.num_captions} captions, {each} an image, {self.words} words, at most {self.longest} characters")
        out += [f"  {caption}" for caption in self.examples]
        out.append("mean " + " ".join(f"{v:.3f}" for v in self.mean) + ", std " + " ".join(f"{v:.3f}" for v in self.std))
        repeated = sum(len(group) - 1 for group in self.duplicates)
        out.append(f"{repeated} duplicates; {self.leaks} images of judge or test have a twin in train")
        out += [f"  {' = '.join(group[:4])}" for group in self.duplicates[:limit]]
        if self.constant:
            out.append(f"{len(self.constant)} images of one value only: {_cut(self.constant, len(self.constant), limit, ', ')}")
        out.append(f"{len(self.bad)} bad files" + (", left out:" if self.bad else ""))
        out += [f"  {path}: {reason}" for path, reason in self.bad[:limit]]
        out += [f"  ... and {len(self.bad) - limit} more: {self.folder / 'meta.json'}, key bad"] * (len(self.bad) > limit)
        out.append(f"store: {self.folder}")
        return out


def check(source: Source, cache: Path, *, processes: int | None = None) -> Checked:
    """Return what a source holds; unreadable files are counted, however many there are.

    Raises: DataError when it cannot be read at all.
    """
    store = source.model_copy(update={"max_bad": 1.0}).open(cache, processes=processes)
    places = np.zeros(len(store), np.uint8)
    for place, name in enumerate(SPLITS):
        places[store.split(name)] = place  # type: ignore[arg-type]
    twins, constant, mean, std = _pixels(store)
    leaks = sum(sum(places[i] != 0 for i in group) for group in twins if any(places[i] == 0 for i in group))
    used = store.captions.groups
    captions = store.captions.distinct
    per_image = np.array([len(group) for group in used])[store.captions.group]
    counts = np.bincount(store.labels[store.labels >= 0], minlength=len(store.class_names))
    return Checked(
        kind=source.kind,
        count=len(store),
        shape=store.images.shape[1:],
        splits={name: int((places == place).sum()) for place, name in enumerate(SPLITS)},
        classes={name: int(num) for name, num in zip(store.class_names, counts, strict=True)},
        num_captions=len(captions),
        captions_per_image=(int(per_image.min()), int(per_image.max())),
        words=len({word for caption in captions for word in caption.casefold().split()}),
        longest=max(map(len, captions)),
        examples=captions[:: max(1, len(captions) // 3)][:3],
        duplicates=[[store.names[i] for i in group] for group in twins],
        leaks=int(leaks),
        constant=[store.names[i] for i in constant],
        mean=mean,
        std=std,
        bad=store.bad,
        folder=store.folder,
        fingerprint=store.fingerprint,
    )


def _pixels(store: Store) -> tuple[list[list[int]], list[int], list[float], list[float]]:
    """Groups of equal images, constant images, and mean and std by channel; the images are passed over once."""
    seen: dict[bytes, list[int]] = defaultdict(list)
    constant = []
    channels = store.images.shape[1]
    total, squares = np.zeros(channels), np.zeros(channels)
    for i, image in enumerate(store.images):
        seen[hashlib.blake2b(image, digest_size=16).digest()].append(i)
        if image.min() == image.max():
            constant.append(i)
        values = image.reshape(channels, -1) / 255.0
        total += values.mean(axis=1)
        squares += np.square(values).mean(axis=1)
    mean = total / len(store)
    std = np.sqrt(np.maximum(squares / len(store) - mean**2, 0))
    return [group for group in seen.values() if len(group) > 1], constant, mean.tolist(), std.tolist()


def _cut(shown: list[str], num: int, limit: int, joint: str) -> str:
    return joint.join(shown[:limit]) + (f"{joint}... and {num - limit} more" if num > limit else "")
