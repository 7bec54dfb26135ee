"""Reading a picture of `shapes` back: which things are there, and whether they are what was asked for.

Foreground is parted into connected things (and by colour where things touch); each thing's colour is that of the
palette nearest in direction, its shape and width those whose soft drawing differs least. Next: `shapes.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import ndimage

from limner.data.scenes import AREA, BETWEEN, COLOURS, RELATIONS, SHAPES, SIDE, SINK, Scene, Thing, coverage, parse
from limner.errors import DataError

FOREGROUND = 0.3  # of full brightness
LEAST_AREA = 12.0  # pixels at side 32; the smallest thing has 32
LEAST_FIT = 0.72  # overlap over union below which a blob has no shape
_PALETTE = np.array(list(COLOURS.values()), float) / 255
_DIRECTIONS = _PALETTE / np.linalg.norm(_PALETTE, axis=1, keepdims=True)
_SHIFTS = (-0.5, 0.0, 0.5)
_SCALES = (0.94, 1.0, 1.06)


@dataclass(frozen=True)
class Seen:
    """A thing in a picture: `thing.shape` is "blob" when it fits none; centre (x, y) and width in pixels at side 32."""

    thing: Thing
    centre: tuple[float, float]
    width: float
    fit: float


def read(image: np.ndarray) -> list[Seen]:
    """Return the things in a picture [3, H, W] uint8 (H = W), the largest first.

    Raises: DataError when the array is no such picture.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2] or image.dtype != np.uint8:
        raise DataError(f"shapes: a picture is [3, H, H] uint8, this is {list(image.shape)} {image.dtype}.")
    scale = image.shape[1] / SIDE
    pixels = image.astype(float) / 255
    smooth = ndimage.gaussian_filter(pixels, (0, 0.5 * scale, 0.5 * scale))
    value = smooth.max(axis=0)
    colours = np.argmax(np.tensordot(_DIRECTIONS, smooth, 1), axis=0)  # [H, W], index into the palette
    seen = []
    for region in _regions(value > FOREGROUND, colours, value, LEAST_AREA * scale**2):
        votes = np.bincount(colours[region], weights=value[region] ** 2, minlength=len(COLOURS))
        seen.append(_fit(pixels, region, int(np.argmax(votes)), scale))
    return sorted(seen, key=lambda one: -one.width)


def verify(image: np.ndarray, asked: Scene | str) -> dict[str, bool]:
    """Return which properties of a scene (or prompt) a picture [3, H, H] uint8 has.

    Keys: `count`, `shape`, and, where asked, `colour`, `size`, `relation`, each true when every thing has it; and
    `all`. Things are matched to what is seen in the way that fits most: shapes and colours first.
    Raises: PromptError for a prompt that is no scene, DataError for an array that is no picture.
    """
    scene = parse(asked) if isinstance(asked, str) else asked
    seen = read(image)
    padded: list[Seen | None] = [*seen[:5], *[None] * max(0, len(scene.things) - len(seen))]
    best = max(
        (_compare(scene, chosen) for chosen in permutations(padded, len(scene.things))),
        key=lambda properties: (properties["shape"] + properties["colour"], sum(properties.values())),
    )
    found = {
        "count": len(seen) == len(scene.things),
        **{key: value == len(scene.things) for key, value in best.items()},
    }
    found["all"] = all(found.values())
    return found


def _compare(scene: Scene, chosen: tuple[Seen | None, ...]) -> Counter[str]:
    """How many things have each property asked for; a relation that holds counts for all."""
    score: Counter[str] = Counter()
    for thing, one in zip(scene.things, chosen, strict=True):
        for key in ("shape", "colour", "size"):
            if getattr(thing, key) is not None:
                score[key] += one is not None and getattr(one.thing, key) == getattr(thing, key)
    if scene.relation is not None:
        score["relation"] = len(scene.things) * related(chosen, scene.relation)
    return score


def related(chosen: tuple[Seen | None, ...], relation: str) -> bool:
    """Return whether the first of two things lies so to the second: further along that axis than aside."""
    first, second = chosen
    if first is None or second is None:
        return False
    dx, dy = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    across, down = RELATIONS[relation]
    along, aside = (dx * across, abs(dy)) if across else (dy * down, abs(dx))
    return bool(along > aside)


def _regions(foreground: np.ndarray, colours: np.ndarray, value: np.ndarray, least: float) -> list[np.ndarray]:
    """Masks [H, W] of the things: connected, and parted by colour where two colours each have a solid part."""
    labels, num = ndimage.label(foreground)
    regions = []
    for number in range(1, num + 1):
        region = labels == number
        if region.sum() < least:
            continue
        parts = []
        core = region & (value > 0.6 * value[region].max())
        for colour in np.unique(colours[core]):
            part = ndimage.binary_opening(core & (colours == colour))
            if part.sum() >= least:
                parts.append(part)
        if len(parts) < 2:
            regions.append(region)
            continue
        nearest_part = np.argmin([ndimage.distance_transform_edt(~part) for part in parts], axis=0)
        regions.extend(region & (nearest_part == k) for k in range(len(parts)))
    return regions


def _fit(pixels: np.ndarray, region: np.ndarray, colour: int, scale: float) -> Seen:
    """Name a region: how far each pixel goes from black to the colour, against each shape of the same area there."""
    palette = _PALETTE[colour]
    grown = ndimage.binary_dilation(region, iterations=max(1, round(scale)))
    amount = np.clip(np.tensordot(palette, pixels, 1) / (palette @ palette), 0.0, 1.0) * grown
    solid = np.percentile(amount[region], 80)
    amount = np.clip(amount / max(solid, 0.3), 0.0, 1.0)
    area = amount.sum()
    rows, columns = np.indices(amount.shape) + 0.5
    x, y = (amount * columns).sum() / area, (amount * rows).sum() / area
    best = (-1.0, "blob", 0.0, 0.0)
    for shape in SHAPES:
        for factor in _SCALES:
            width = factor * np.sqrt(area / AREA[shape])
            for dx in _SHIFTS:
                for dy in _SHIFTS:
                    middle = y - SINK[shape] * width + dy * scale
                    drawn = coverage(shape, (x + dx * scale, middle), width, amount.shape[0])
                    overlap = np.minimum(amount, drawn).sum() / np.maximum(amount, drawn).sum()
                    best = max(best, (overlap, shape, width / scale, middle / scale))
    fit, shape, width, middle = best
    size = "small" if width < BETWEEN else "large"
    thing = Thing(shape if fit >= LEAST_FIT else "blob", list(COLOURS)[colour], size)
    return Seen(thing, (x / scale, middle), width, fit)
