"""The three things that pass between rooms, and the legend of shapes used in every docstring.

    B  images in a batch        C  channels          H W  rows, columns (of pixels or of latents)
    L  tokens of a caption      D  width of a token

Images are float in [-1, 1] inside the program and uint8 at its edges. Time t is a float in [0, 1]: 0 is data, 1 is noise.
Next: `process/schedules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""`denoise(x_t [B C H W], t [B]) -> x0 [B C H W]`: what everything above the network speaks."""


@dataclass(frozen=True)
class Conditioning:
    """What a text encoder makes of B captions.

    Arguments:
        tokens: [B, L, D] one vector a token.
        mask: [B, L] bool, True where there is a token.
        pooled: [B, D] one vector a caption.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return self.pooled.shape[0]

    def __getitem__(self, rows: Tensor | slice | list[int]) -> Conditioning:
        """Return the conditioning of some of the captions; rows may repeat."""
        return Conditioning(self.tokens[rows], self.mask[rows], self.pooled[rows])

    def to(self, *args: object, **kwargs: object) -> Conditioning:
        """Move or cast as `Tensor.to`; the mask is moved but stays bool."""
        tokens = self.tokens.to(*args, **kwargs)  # type: ignore[call-overload]
        return Conditioning(tokens, self.mask.to(tokens.device), self.pooled.to(*args, **kwargs))  # type: ignore[call-overload]

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Stack several conditionings along B; shorter ones are padded with masked tokens up to the longest L."""
        length = max(part.tokens.shape[1] for part in parts)
        padded = [part.padded(length) for part in parts]
        return Conditioning(
            torch.cat([part.tokens for part in padded]),
            torch.cat([part.mask for part in padded]),
            torch.cat([part.pooled for part in padded]),
        )

    def padded(self, length: int) -> Conditioning:
        """Return the same conditioning with L = `length`; the added tokens are zero and masked."""
        extra = length - self.tokens.shape[1]
        if extra == 0:
            return self
        return Conditioning(
            torch.nn.functional.pad(self.tokens, (0, 0, 0, extra)),
            torch.nn.functional.pad(self.mask, (0, extra)),
            self.pooled,
        )


@dataclass(frozen=True)
class Batch:
    """Images with their captions, in the order of the training run.

    Arguments:
        pixels: [B, C, H, W] uint8.
        captions: B strings.
        ids: B indices into the data source, for error messages and for proofs of order.
        labels: B class indices, or -1 where a source has no classes.
    """

    pixels: Tensor
    captions: list[str]
    ids: list[int]
    labels: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class Step:
    """One step of a sampler: at time `t` the state was `x` [B C H W] and the model's picture of the data `x0` [B C H W].

    The last step that a sampler yields has t = 0 and x = the sample.
    """

    t: float
    x: Tensor
    x0: Tensor
