"""The loss: the squared error of the network's answer to one question per image. Next: `ema.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limner.process import Process, Target
from limner.process.targets import MinSNR, V
from limner.text import TextEncoder


class Learner(nn.Module):
    """What is trained: text encoder and network, in one module, so that gradients of both are averaged over processes.

    Calling it gives the loss of each image.
    """

    def __init__(
        self, text: TextEncoder, network: nn.Module, *, process: Process, target: Target, weighting: MinSNR | None = None
    ) -> None:
        super().__init__()
        self.text, self.network = text, network
        self.process, self.target, self.weighting = process, target, weighting

    def forward(self, x0: Tensor, eps: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        """Return the loss of each image [B]: weight(t)·mean|y - target|².

        Arguments:
            x0: latents [B C H W]. eps: noise [B C H W]. t: times [B]. captions: B strings, "" where dropped.
        """
        y = self.network(self.process.add_noise(x0, eps, t), t, self.text.encode(captions))
        error = (y.float() - self.target.of(self.process, x0, eps, t)).square().flatten(1).mean(1)
        return error if self.weighting is None else error * self.weighting.weight(self.process, self.target, t)

    @torch.no_grad()
    def heldout(self, x0: Tensor, eps: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        """Return each image's squared error of v [B], whatever the target: comparable between all targets of one process."""
        x_t = self.process.add_noise(x0, eps, t)
        y = self.network(x_t, t, self.text.encode(captions)).float()
        error = (self.target.x0(self.process, x_t, y, t) - x0).square().flatten(1).mean(1)
        return error * V().weight_to_x0(self.process, t)
