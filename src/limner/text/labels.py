"""Class-conditioning by the same door as text: each class is one learned vector.

A prompt is any caption of a class, a class's name or its index; the null caption "" has a vector of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from limner.errors import CheckpointError, ConfigError, PromptError, nearest
from limner.text.base import TextConfig, TextEncoder
from limner.types import Conditioning

MAX_CLASSES = 1_000_000


class Labels(TextConfig):
    """One vector of `width` a class."""

    kind: Literal["labels"] = "labels"
    width: int = Field(64, ge=8, le=4096)

    def build(self, captions: list[str], labels: dict[str, int]) -> TextEncoder:
        if not labels:
            raise ConfigError("text: `labels` needs a data source with classes, and this one has none. Use kind: transformer.")
        return LabelsEncoder(self, labels)

    def load(self, folder: Path) -> TextEncoder:
        path = folder / "labels.json"
        try:
            labels = {str(key): int(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
            if not labels or not all(0 <= value < MAX_CLASSES for value in labels.values()):
                raise ValueError("no classes, or indices that are none")
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}: the class names cannot be read: {error}") from error
        return LabelsEncoder(self, labels)


class LabelsEncoder(TextEncoder):
    """The encoder that `Labels` describes; row 0 is the null class. L = 1."""

    def __init__(self, config: Labels, labels: dict[str, int]) -> None:
        super().__init__()
        self.width = config.width
        self.labels = labels
        self._lowered = {_plain(name): label for name, label in labels.items()}
        self.num_classes = max(labels.values()) + 1
        self.table = nn.Embedding(self.num_classes + 1, config.width)
        nn.init.normal_(self.table.weight, std=0.5)

    def label(self, prompt: str) -> int:
        """Return the class index of a caption, class name or index; -1 for "". Raises PromptError for anything else."""
        plain = _plain(prompt)
        if not plain:
            return -1
        if plain in self._lowered:
            return self._lowered[plain]
        if plain.isdecimal() and len(plain) < 10 and int(plain) < self.num_classes:
            return int(plain)
        raise PromptError(
            f"prompt {prompt[:80]!r} is no class of this model.{nearest(plain[:80], self._lowered)} "
            f"Give a class's name, one of its captions, or an index from 0 to {self.num_classes - 1}."
        )

    def encode(self, captions: list[str]) -> Conditioning:
        rows = torch.tensor([self.label(caption) + 1 for caption in captions], device=self.table.weight.device)
        pooled = self.table(rows)
        mask = torch.ones(len(captions), 1, dtype=torch.bool, device=rows.device)
        return Conditioning(pooled[:, None], mask, pooled)

    def check(self, prompt: str) -> list[str]:
        if self.label(prompt) < 0:
            raise PromptError("the prompt is empty. For pictures without a prompt use --guidance 0.")
        return []

    def save(self, folder: Path) -> None:
        (folder / "labels.json").write_text(json.dumps(self.labels, ensure_ascii=False), encoding="utf-8")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
