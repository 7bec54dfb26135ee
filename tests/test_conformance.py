"""Our own parts conform, and a broken part of each family is caught by the check meant for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from limner.codecs import CODECS
from limner.conformance import check, checks_for
from limner.data.digits import Digits
from limner.errors import ConfigError
from limner.guidance import GUIDANCE, cfg
from limner.networks.unet import UNet
from limner.process import PROCESSES, TARGETS, TIMES
from limner.samplers import SAMPLERS
from limner.text import Labels, Transformer

HEAD = """
import torch
from typing import Literal
from torch import nn
from limner.codecs import Codec
from limner.data.source import Example, Source
from limner.guidance import Guidance, cfg
from limner.networks import NetworkConfig
from limner.process import Process, Target, Times
from limner.process.schedules import expand
from limner.samplers import Sampler, SAMPLERS, euler
from limner.text import TextConfig
from limner.types import Conditioning, Step
"""

SMALL_NETWORK = """
class Net(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.conv = nn.Conv2d(channels + 2, 8, 3, padding=1)
        self.out = nn.Conv2d(8, channels, 3, padding=1)
        self.caption = nn.Linear(width, 1)
    def forward(self, x, t, conditioning):
        b, c, h, w = x.shape
        planes = [x, {time}, {caption}]
        return self.out(torch.relu(self.conv(torch.cat(planes, 1))))
class Mine(NetworkConfig):
    kind: str
    def build(self, *, channels, size, text_width):
        return Net(channels, text_width)
"""
TIME = "t.reshape(b, 1, 1, 1).expand(b, 1, h, w)"
CAPTION = "self.caption(conditioning.pooled).reshape(b, 1, 1, 1).expand(b, 1, h, w)"
EULER = """
def mine(denoise, x, times, process, *, noise=None):
    times = [float(t) for t in times]
    for t, s in zip(times, times[1:]):
        x0 = denoise(x, torch.full((len(x),), t, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32))
        both = torch.tensor([t, s], dtype=torch.float64)
        (a, c), (b, d) = process.alpha(both).tolist(), process.sigma(both).tolist()
        x = {step}
        yield Step({time}, x, x0)
"""
GOOD_STEP = "(d / b) * x + (c - a * d / b) * x0"
SOURCE = """
import itertools, numpy as np
calls = itertools.count()
class Mine(Source):
    kind: str
    size: int = 8
    channels: int = 1
    def class_names(self):
        return ("dark", "light")
    def examples(self):
        {first}
        for i in range(40):
            yield Example(np.full((8, 8), {value}, np.uint8), f"mine/{{i}}", {label})
"""


def spec(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / "mine.py"
    path.write_text(HEAD + text, encoding="utf-8")
    return f"{path}:{name}"


PARTS = [
    *(PROCESSES.parse(kind) for kind in PROCESSES.members if kind != "tabulated"),
    PROCESSES.parse({"kind": "tabulated", "schedule": "linear"}),
    *(TARGETS.parse(kind) for kind in TARGETS.members),
    *(TIMES.parse(kind) for kind in TIMES.members),
    *(CODECS.parse(kind) for kind in ("pixels", "patches")),
    *SAMPLERS.values(),
    *(GUIDANCE.parse(kind) for kind in GUIDANCE.members),
    Transformer(),
    Labels(),
    UNet(widths=(16, 32)),
    cfg,
]


@pytest.mark.parametrize(
    "part", PARTS, ids=lambda part: getattr(part, "kind", getattr(getattr(part, "function", part), "__name__", "part"))
)
def test_our_own_parts_conform(part: object) -> None:
    _, checks = checks_for(part, "ours.py:part")
    for _, run in checks:
        run()


def test_our_digits_conform() -> None:
    for _, run in checks_for(Digits(limit=40), "ours.py:digits")[1]:
        run()


GOOD = {
    "process": "class mine(Process):\n kind: str\n def alpha(self, t): return 1 - t\n def sigma(self, t): return t",
    "target": "class mine(Target):\n kind: str\n def a(self, p, t): return t - 3\n def b(self, p, t): return 1 + t",
    "times": "class mine(Times):\n kind: str\n def quantile(self, u, *, budget): return u**2",
    "sampler": EULER.format(step=GOOD_STEP, time="s"),
    "network": SMALL_NETWORK.format(time=TIME, caption=CAPTION).replace("Mine", "mine"),
    "source": SOURCE.format(first="pass", value="i", label="i % 2").replace("Mine", "mine"),
    "guidance": "def mine(denoise, cond, null, *, scale): return cfg(denoise, cond, null, scale=scale)",
    "codec": (
        "class mine(Codec):\n kind: str\n def latent_shape(self, channels, size): return (channels, *size)\n"
        " def encode(self, pixels): return pixels.float() / 127.5 - 1\n"
        " def decode(self, z): return ((z + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)"
    ),
}


@pytest.mark.parametrize("family", GOOD)
def test_a_good_part_in_a_file_passes_every_check(family: str, tmp_path: Path) -> None:
    lines = check(spec(tmp_path, GOOD[family]))
    assert len(lines) >= 4
    assert all(line.startswith(f"ok    {family}: ") for line in lines)


BROKEN = {
    "a process whose alpha is not 1 at the data": (
        "class mine(Process):\n kind: str\n def alpha(self, t): return 0.9 - 0.9 * t\n def sigma(self, t): return t",
        "alpha(0) is 0.9, not 1",
    ),
    "a process whose SNR rises again": (
        "class mine(Process):\n kind: str\n def alpha(self, t): return 1 - t\n"
        " def sigma(self, t): return t * (1.5 - t) * (1 - t + 1e-3)",
        "does not fall",
    ),
    "a process that forces double precision": (
        "class mine(Process):\n kind: str\n def alpha(self, t): return 1 - t.double()\n def sigma(self, t): return t",
        "alpha of torch.float32 is torch.float64",
    ),
    "a target that repeats x_t": (
        "class mine(Target):\n kind: str\n def a(self, p, t): return p.alpha(t)\n def b(self, p, t): return p.sigma(t)",
        "det = alpha·b - sigma·a vanishes",
    ),
    "a target that solves for x0 wrongly": (
        "class mine(Target):\n kind: str\n def a(self, p, t): return -torch.ones_like(t)\n"
        " def b(self, p, t): return torch.ones_like(t)\n def x0(self, p, x_t, y, t): return x_t - y",
        "x0 from the target is not the x0",
    ),
    "times outside their bounds": (
        "class mine(Times):\n kind: str\n def quantile(self, u, *, budget): return 1.5 * u",
        "outside [0, 1]",
    ),
    "times drawn at random": (
        "class mine(Times):\n kind: str\n def quantile(self, u, *, budget): return torch.rand(u.shape)",
        "the same u gives another time",
    ),
    "a sampler that stops before the data": (EULER.format(step=GOOD_STEP, time="t"), "the last Step has t ="),
    "a sampler that does not converge": (
        EULER.format(step="0.5 * x + 0.5 * x0", time="s"),
        "converges on Gaussian data",
    ),
    "a sampler that mixes the images of a batch": (
        EULER.format(step=f"{GOOD_STEP} + 0.1 * s * (x - x.mean(0))", time="s"),
        "an image changes with the others",
    ),
    "a sampler that claims too high an order": (
        EULER.format(step=GOOD_STEP, time="s") + "mine = Sampler(mine, order=2)",
        "not 2",
    ),
    "a network deaf to time": (
        SMALL_NETWORK.format(time="x[:, :1] * 0", caption=CAPTION).replace("Mine", "mine"),
        "the same at t = 0.2",
    ),
    "a network deaf to captions": (
        SMALL_NETWORK.format(time=TIME, caption="x[:, :1] * 0").replace("Mine", "mine"),
        "after training its answer is the same for other captions",
    ),
    "a network with batch normalisation in sampling": (
        SMALL_NETWORK.format(time=TIME, caption=CAPTION)
        .replace("torch.relu(self.conv(torch.cat(planes, 1)))", "torch.relu(self.conv(torch.cat(planes, 1)) - x.mean())")
        .replace("Mine", "mine"),
        "an image changes with the others",
    ),
    "a codec that loses the contrast": (
        GOOD["codec"].replace("(z + 1) * 127.5", "(z + 1) * 60"),
        "levels off on average",
    ),
    "a codec that wraps around": (GOOD["codec"].replace(".clamp(0, 255)", ".remainder(256) * 0.5"), "pixels come back"),
    "a source in another order each time": (
        SOURCE.format(first="n = next(calls)", value="(i + n) % 40", label="i % 2").replace("Mine", "mine"),
        "read again it is another example",
    ),
    "a source without classes for its labels": (
        SOURCE.format(first="pass", value="i", label="i % 3").replace("Mine", "mine"),
        "fails: opens",
    ),
    "guidance that is never conditional": (
        "def mine(denoise, cond, null, *, scale): return cfg(denoise, cond, null, scale=scale + 1)",
        "at scale 1 it is not the conditional answer",
    ),
    "guidance that does nothing": (
        "def mine(denoise, cond, null, *, scale): return lambda x, t: denoise(x, t, cond)",
        "it does nothing",
    ),
    "a text encoder that cannot tell captions apart": (
        "from limner.text import TextEncoder\n"
        "class E(TextEncoder):\n"
        " def __init__(self):\n  super().__init__(); self.width = 8; self.p = nn.Parameter(torch.ones(8))\n"
        " def encode(self, c):\n  v = self.p.expand(len(c), 8)\n"
        "  return Conditioning(v[:, None], torch.ones(len(c), 1, dtype=torch.bool), v)\n"
        " def check(self, prompt): return []\n"
        "class mine(TextConfig):\n kind: str\n def build(self, captions, labels): return E()\n"
        " def load(self, folder): return E()\n",
        "are the same",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_part_is_caught(name: str, tmp_path: Path) -> None:
    text, why = BROKEN[name]
    with pytest.raises(ConfigError) as caught:
        check(spec(tmp_path, text))
    assert why in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("mine = 3", "mine", "belongs to no family"),
        ("class Mine(nn.Module): pass", "Mine", "Check the NetworkConfig"),
        ('class Mine(Process):\n kind: Literal["mine"] = "mine"', "Mine", "annotate the field as `kind: str`"),
        ("def miner(): pass", "mine", "Did you mean 'miner'"),
        ("raise RuntimeError('no')", "mine", "cannot be run"),
    ],
)
def test_what_cannot_be_checked_says_why(text: str, name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        check(spec(tmp_path, text, name))


@pytest.mark.parametrize("given", ["mine.py", "missing.py:mine", ":mine"])
def test_a_wrong_argument_is_named(given: str) -> None:
    with pytest.raises(ConfigError, match="mine"):
        check(given)
