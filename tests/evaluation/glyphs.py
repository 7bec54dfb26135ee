"""Drawings of four kinds (two bars, a cross, a ring) at any place and size: enough to be judged, made in a moment."""

import numpy as np

from limner.evaluation.judge import JudgeConfig

QUICK = JudgeConfig(steps=70, width=8, batch=64, precision="fp32", dropout=0.0, augment="none")
NAMES = ("post", "beam", "cross", "ring")
SIDE = 16


def glyphs(num, seed, labels=None):
    """Return images [num, 1, 16, 16] uint8 and labels [num]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num) % 4) if labels is None else np.asarray(labels)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    dy, dx = rows - rng.uniform(6.5, 9.5, (num, 1, 1)), columns - rng.uniform(6.5, 9.5, (num, 1, 1))
    length, width = rng.uniform(4, 6.5, (num, 1, 1)), rng.uniform(0.8, 1.8, (num, 1, 1))

    def bar(along, across):
        return np.maximum(np.abs(along) - length, np.abs(across) - width)

    depth = np.choose(
        labels[:, None, None],
        [bar(dy, dx), bar(dx, dy), np.minimum(bar(dy, dx), bar(dx, dy)), np.abs(np.hypot(dy, dx) - length) - width],
    )
    bright = rng.uniform(170, 255, (num, 1, 1)) / (1 + np.exp(3 * depth))
    return np.clip(bright + rng.normal(0, 4, bright.shape), 0, 255).astype(np.uint8)[:, None], labels


class Store:
    """What `judge_for` needs of a data store."""

    def __init__(self, num=400, seed=0):
        self.images, self.labels = glyphs(num, seed)
        self.class_names, self.fingerprint = NAMES, f"glyphs-{num}-{seed}"

    def split(self, name):
        edges = {"train": (0.0, 0.4), "judge": (0.4, 0.7), "test": (0.7, 1.0)}[name]
        return np.arange(int(edges[0] * len(self.labels)), int(edges[1] * len(self.labels)))

    def class_captions(self, label):
        return [f"a {NAMES[label]}", NAMES[label], f"one {NAMES[label]}, drawn"]
