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
# # Score, Langevin and the SDE, with a denoiser that is exact
#
# For a mixture of Gaussians the best possible denoiser $E[x_0 \mid x_t]$ is a formula. With it, everything that a
# trained network only approximates can be watched exactly.

# %%
import math

import matplotlib.pyplot as plt
import torch

from limner.process.schedules import RectifiedFlow
from limner.process.times import make_grid
from limner.samplers import SAMPLERS, start

torch.set_num_threads(1)
torch.manual_seed(0)
process = RectifiedFlow()
angles = torch.arange(6, dtype=torch.float64) * 2 * math.pi / 6
means, width = torch.stack([angles.cos(), angles.sin()], 1), 0.12


def denoise(x_t, t):
    """E[x0 | x_t] for the mixture: each mean's own answer, weighted by how likely x_t came from it."""
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    x = x_t.flatten(1)
    variance = alpha**2 * width**2 + sigma**2
    offset = x[:, None] - alpha[..., None] * means
    chance = torch.softmax(-offset.square().sum(-1) / (2 * variance), dim=1)
    answers = means + (alpha * width**2 / variance)[..., None] * offset
    return (chance[..., None] * answers).sum(1).reshape(x_t.shape)


def picture(points, title, axis):
    axis.scatter(*points.flatten(1).T, s=3, alpha=0.5)
    axis.set(title=title, xlim=(-2, 2), ylim=(-2, 2), aspect="equal")


# %% [markdown]
# ## The score is the denoiser in disguise
#
# $\nabla \log p_t(x) = (\alpha\,\hat x_0 - x)/\sigma^2$ (Tweedie). Checked against the derivative of the density
# itself:


# %%
def log_density(x, t):
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    variance = alpha**2 * width**2 + sigma**2
    offset = x[:, None] - alpha[..., None] * means
    return torch.logsumexp(-offset.square().sum(-1) / (2 * variance) - variance.log(), 1)


def score(x, t):
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    return (alpha * denoise(x[..., None, None], t).flatten(1) - x) / sigma**2


x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
t = torch.full((5,), 0.4, dtype=torch.float64)
(exact,) = torch.autograd.grad(log_density(x, t).sum(), x)
gap = (score(x.detach(), t) - exact).abs().max().item()
print(f"largest difference: {gap:.1e}")
assert gap < 1e-10

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4))
side = torch.linspace(-2, 2, 21, dtype=torch.float64)
mesh = torch.cartesian_prod(side, side)
for axis, time in zip(axes, (0.8, 0.4, 0.1), strict=True):
    arrows = score(mesh, torch.full((len(mesh),), time, dtype=torch.float64))
    arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp_min(1)
    axis.quiver(*mesh.T, *arrows.T, scale=30)
    axis.scatter(*(means * (1 - time)).T, color="red", s=12)
    axis.set(title=f"score at t = {time}", aspect="equal")

# %% [markdown]
# ## Langevin: noise and score at one level of noise
#
# $x \leftarrow x + h\,\nabla\log p + \sqrt{2h}\,z$ settles in $p_t$ from anywhere, but between far modes it takes for
# ever: at little noise it stays where it began.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 4))
for axis, time in zip(axes, (0.5, 0.05), strict=True):
    x = torch.randn(400, 2, dtype=torch.float64) * 0.1 + torch.tensor([1.0, 0.0])
    clock = torch.full((400,), time, dtype=torch.float64)
    h = 0.1 * (time**2 + (1 - time) ** 2 * width**2)
    for _ in range(200):
        x = x + h * score(x, clock) + math.sqrt(2 * h) * torch.randn_like(x)
    picture(x, f"Langevin at t = {time}", axis)

# %% [markdown]
# ## From noise to data: the ODE, and SDEs with the same marginals
#
# Lower the noise while moving, and all modes are found. The ODE does it without new noise; each SDE adds some and
# takes as much away.

# %%
eps = torch.randn(600, 2, 1, 1, dtype=torch.float64)
times = make_grid("uniform", process, 60)
figure, axes = plt.subplots(1, 4, figsize=(16, 4))
for axis, name in zip(axes, ("ab2", "ddpm", "euler-stochastic", "edm-churn"), strict=True):
    begin = start(process, None, eps, 1.0)
    *_, step = SAMPLERS[name](denoise, begin, times, process, noise=lambda: torch.randn_like(eps))
    picture(step.x, name, axis)
    distance = torch.cdist(step.x.flatten(1), means)
    share = torch.bincount(distance.argmin(1), minlength=6) / len(eps)
    spread = distance.min(1).values.square().mean().div(2).sqrt().item()
    print(f"{name:17s} share of modes {[round(s, 2) for s in share.tolist()]}  spread {spread:.3f} (right: {width})")

# %% [markdown]
# ## Where each noise goes
#
# The ODE is a map from noise to data: neighbours stay neighbours, and each path can be run again.

# %%
figure, axis = plt.subplots(figsize=(5, 5))
few = eps[:40]
path = [few.flatten(1)] + [step.x.flatten(1) for step in SAMPLERS["ab2"](denoise, start(process, None, few, 1.0), times, process)]
for line in torch.stack(path, 1):
    axis.plot(*line.T, linewidth=0.8)
axis.set(title="paths of the ODE", aspect="equal")
plt.show()
