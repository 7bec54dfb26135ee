"""One attention for every room: torch's fused one on GPUs and for long sequences, two plain products for few keys on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

FEW_KEYS = 512


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return softmax(q·k/sqrt(width))·v over the keys that `keep` allows.

    Arguments:
        q: [B, heads, Q, width]. k, v: [B, heads, K, width]. keep: [B, 1, 1, K] bool, True where a key counts.
    For few keys on a CPU plain products are used: there torch's fused attention spends 25 ms in its backward where they take 3
    (128 images of 49 pixels, two cores; see LOG.md).
    """
    if q.device.type != "cpu" or k.shape[2] > FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float()
    if keep is not None:
        scores = scores.masked_fill(~keep, -1e4)
    return scores.softmax(-1).to(v.dtype) @ v


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Return [B, heads, L, width/heads] for x [B, L, width]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
