# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Guidance
#
# A guided denoiser is a denoiser: $\hat x_0 = \hat x_0^u + w\,(\hat x_0^c - \hat x_0^u)$. Here the conditional and
# the unconditional denoiser are exact, so what guidance does beyond conditioning can be seen alone.

# %%
import math

import matplotlib.pyplot as plt
import torch

from limner.guidance import GUIDANCE
from limner.process.schedules import RectifiedFlow
from limner.process.times import make_grid
from limner.samplers import SAMPLERS, start
from limner.types import Conditioning

torch.set_num_threads(1)
torch.manual_seed(0)
process = RectifiedFlow()
angles = torch.arange(8, dtype=torch.float64) * 2 * math.pi / 8
means, width = torch.stack([angles.cos(), angles.sin()], 1), 0.25


def conditioning(classes):
    """Two neighbouring modes are one class 0 ... 3; class -1 is no caption at all."""
    pooled = torch.tensor(classes, dtype=torch.float64)[:, None]
    return Conditioning(pooled[:, None], torch.ones(len(classes), 1, dtype=torch.bool), pooled)


asked = {"rows": 0, "calls": 0}


def denoise(x_t, t, cond, width=width):
    """E[x0 | x_t, class], exact."""
    asked["rows"] += len(x_t)
    asked["calls"] += 1
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    variance = alpha**2 * width**2 + sigma**2
    offset = x_t.flatten(1)[:, None] - alpha[..., None] * means
    mine = (torch.arange(8) // 2)[None] == cond.pooled
    allowed = mine | (cond.pooled < 0)
    logits = (-offset.square().sum(-1) / (2 * variance)).masked_fill(~allowed, -math.inf)
    answers = means + (alpha * width**2 / variance)[..., None] * offset
    return (torch.softmax(logits, 1)[..., None] * answers).sum(1).reshape(x_t.shape)


def weak(x_t, t, cond):
    """A worse model of the same data: every mode twice as wide."""
    return denoise(x_t, t, cond, width=2 * width)


eps = torch.randn(400, 2, 1, 1, dtype=torch.float64)
times = make_grid("uniform", process, 30)
cond, null = conditioning([0] * 400), conditioning([-1])


def sample(**config):
    asked.update(rows=0, calls=0)
    guided = GUIDANCE.parse(config).apply(denoise, cond, null, process=process, weak=weak)
    *_, step = SAMPLERS["abm"](guided, start(process, None, eps, 1.0), times, process)
    return step.x.flatten(1)


def picture(axis, points, title):
    axis.scatter(*means.T, color="lightgray", s=60)
    axis.scatter(*points.T, s=3)
    axis.set(title=title, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")


# %% [markdown]
# ## The scale
#
# 0 ignores the class, 1 is the class as it is, more pushes away from everything else: sharper, and narrower than the
# class really is.

# %%
figure, axes = plt.subplots(1, 5, figsize=(20, 4))
for axis, scale in zip(axes, (0.0, 1.0, 2.0, 4.0, 8.0), strict=True):
    points = sample(kind="cfg", scale=scale)
    picture(axis, points, f"w = {scale:g}")
    inside = (torch.cdist(points, means).argmin(1) < 2).double().mean()
    calls = asked["rows"] // len(eps)
    print(f"w {scale:3g}: {inside:6.1%} of the class asked for, spread {points.std(0).mean():.3f}, {calls} evaluations")

# %% [markdown]
# ## The interval
#
# At much noise guidance decides between modes too early, at little noise it only costs. Acting between t = 0.1 and
# 0.9 keeps most of the effect, and outside only one half is computed.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4))
for axis, interval in zip(axes, ([0.0, 1.0], [0.1, 0.9], [0.2, 0.6]), strict=True):
    points = sample(kind="cfg", scale=4.0, interval=interval)
    picture(axis, points, f"{interval}: {asked['rows'] // len(eps)} evaluations an image")

# %% [markdown]
# ## Other directions
#
# Autoguidance pushes away from a weaker model of the *same* class; CFG-Zero* rescales the unconditional velocity; APG
# keeps only the part of the push that is orthogonal to the answer.

# %%
figure, axes = plt.subplots(1, 4, figsize=(16, 4))
for axis, kind in zip(axes, GUIDANCE.members, strict=True):
    points = sample(kind=kind, scale=3.0)
    picture(axis, points, kind)
    assert torch.isfinite(points).all()

# %% [markdown]
# ## Two conventions
#
# Some systems write $(1 + w')\,c - w'\,u$, where 0 is conditional. `convention="plus-one"` takes such numbers as they
# are.

# %%
same = (sample(kind="cfg", scale=4.0, convention="plus-one") - sample(kind="cfg", scale=5.0)).abs().max().item()
print(f"w' = 4 and w = 5 differ by {same}")
assert same == 0
plt.show()
