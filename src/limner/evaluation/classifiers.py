"""The judges' two networks: a plain convolutional one and a residual one; both give features [N, 64] and logits [N, K].

Two architectures exist so that a score can be read twice by judges that fail differently. A third, with random weights,
is the
control: it has learned nothing, so it also sees defects that have nothing to do with classes. Next: `augment.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 64


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """x + two 3x3 convolutions of it; the shortcut is a 1x1 convolution where width or resolution change.

    Source: He et al. 2016 (arXiv:1512.03385), Figure 2.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(inputs, outputs, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C', H / stride, W / stride]."""
        return torch.relu(self.shortcut(x) + self.body(x))


def _plain(channels: int, width: int) -> nn.Module:
    """Six 3x3 convolutions; every halving of the resolution doubles the width."""
    return nn.Sequential(
        *_conv(channels, width),
        *_conv(width, 2 * width, stride=2),
        *_conv(2 * width, 2 * width),
        *_conv(2 * width, 4 * width, stride=2),
        *_conv(4 * width, 4 * width),
        *_conv(4 * width, 4 * width),
    )


def _residual(channels: int, width: int) -> nn.Module:
    """A stem that halves the resolution, then three residual blocks."""
    return nn.Sequential(
        *_conv(channels, 2 * width, stride=2),
        Residual(2 * width, 2 * width),
        Residual(2 * width, 4 * width, stride=2),
        Residual(4 * width, 4 * width),
    )


ARCHITECTURES = {"conv": _plain, "residual": _residual}


class Classifier(nn.Module):
    """A trunk of convolutions, the mean over pixels, 64 features, K logits.

    Arguments:
        architecture: a name of `ARCHITECTURES`.
        channels: of the images. classes: K. width: channels of the first layer (the last has four times as many).
        dropout: share of the features dropped in training.
    """

    def __init__(self, architecture: str, *, channels: int, classes: int, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = ARCHITECTURES[architecture](channels, width)
        self.embed = nn.Linear(8 * width, FEATURES)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, 64] and logits [N, K] of pixels [N, C, H, W] in [-1, 1]; mean and maximum are pooled."""
        maps = self.trunk(pixels)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        features = self.embed(pooled)
        return features.float(), self.head(self.dropout(torch.relu(features))).float()
