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
# # Samplers and their order
#
# For Gaussian data $x_0 \sim N(m, s^2)$ the ideal denoiser and the solution of the sampling ODE are closed forms. So
# a solver's error is exact, and its order is the slope of a line.

# %%
import math

import matplotlib.pyplot as plt
import torch

from limner.fitting import fit_grid
from limner.plot import SCHEDULES
from limner.process.times import make_grid
from limner.samplers import SAMPLERS, start

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(7, 1, 1, 1)
mean, spread = 0.7, torch.linspace(0.25, 1.6, 7, dtype=torch.float64).reshape(7, 1, 1, 1)


def ideal(process):
    def denoise(x_t, t):
        alpha, sigma = (f(t)[:, None, None, None] for f in (process.alpha, process.sigma))
        return mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x_t - alpha * mean)

    return denoise


def exact(process, x, t, s):
    alpha, sigma = (f(torch.tensor([t, s], dtype=torch.float64)) for f in (process.alpha, process.sigma))
    before, after = (alpha[i] ** 2 * spread**2 + sigma[i] ** 2 for i in (0, 1))
    return alpha[1] * mean + (after / before).sqrt() * (x - alpha[0] * mean)


def error(name, process, num_steps, high=0.9, low=0.1):
    times = torch.linspace(high, low, num_steps + 1, dtype=torch.float64)
    *_, step = SAMPLERS[name](ideal(process), x, times, process)
    return (step.x - exact(process, x, high, low)).abs().max().item()


# %% [markdown]
# ## Orders, from t = 0.9 to 0.1, on every schedule

# %%
solvers = [name for name, sampler in SAMPLERS.items() if not sampler.stochastic and name != "ddim"]
counts = (20, 40, 80)
print(f"{'':10s}" + "".join(f"{name:>15s}" for name in SCHEDULES) + f"{'as designed':>15s}")
for name in solvers:
    orders = []
    for process in SCHEDULES.values():
        errors = [error(name, process, n) for n in counts]
        orders.append(math.log2(errors[1] / errors[2]))
    print(f"{name:10s}" + "".join(f"{order:15.2f}" for order in orders) + f"{SAMPLERS[name].order:15d}")

# %%
figure, axis = plt.subplots(figsize=(6, 4.5))
for name in solvers:
    budget = [8, 16, 32, 64, 128]
    errors = [error(name, SCHEDULES["flow"], SAMPLERS[name].steps_for(nfe)) for nfe in budget]
    axis.loglog(budget, errors, marker="o", markersize=3, label=name)
axis.set(xlabel="network evaluations", ylabel="largest error", title="error against cost, flow")
axis.legend(fontsize=7)

# %% [markdown]
# ## What that means with few steps
#
# Data of several modes, from pure noise at t = 1. Order is a promise for many steps; with 4 to 10, constants and the
# grid decide.

# %%
angles = torch.arange(8, dtype=torch.float64) * 2 * math.pi / 8
means, width = torch.stack([angles.cos(), angles.sin()], 1), 0.1
process = SCHEDULES["flow"]


def modes(x_t, t):
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    variance = alpha**2 * width**2 + sigma**2
    offset = x_t.flatten(1)[:, None] - alpha[..., None] * means
    chance = torch.softmax(-offset.square().sum(-1) / (2 * variance), 1)
    answers = means + (alpha * width**2 / variance)[..., None] * offset
    return (chance[..., None] * answers).sum(1).reshape(x_t.shape)


def run(name, grid, num_steps, eps, **options):
    times = make_grid(grid, process, num_steps)
    *_, step = SAMPLERS[name](modes, start(process, None, eps, float(times[0])), times, process, **options)
    return step.x


eps = torch.randn(400, 2, 1, 1, dtype=torch.float64)
truth = run("abm", "uniform", 400, eps)
for grid in ("uniform", {"kind": "shifted", "a": 0.5}):
    print(f"\ngrid {grid}: root mean square distance to the ODE's solution")
    print(f"{'':10s}" + "".join(f"{nfe:>8d}" for nfe in (4, 6, 8, 10, 20)) + "  evaluations")
    for name in solvers:
        row = []
        for nfe in (4, 6, 8, 10, 20):
            found = run(name, grid, SAMPLERS[name].steps_for(nfe), eps)
            row.append((found - truth).square().mean().sqrt().item())
        print(f"{name:10s}" + "".join(f"{value:8.3f}" for value in row))

# %% [markdown]
# ## A grid fitted to the model
#
# The times (and an Adams solver's coefficients) can be learned: from a few noises, against a fine reference.

# %%
noises = torch.randn(128, 2, 1, 1, dtype=torch.float64)
for name, coefficients in (("ab2", False), ("ab2", True), ("abm", False)):
    fit = fit_grid(modes, process, noises, 6, sampler=name, learn_coefficients=coefficients)
    found = run(name, fit, 6, eps, **fit.options)
    gap = (found - truth).square().mean().sqrt().item()
    print(f"{name}, learned coefficients: {coefficients}; times {[round(t, 3) for t in fit.times]}")
    print(f"    best fixed grid {fit.baseline:.4f}, fitted {fit.error:.4f}, on other noises {gap:.4f}")

# %% [markdown]
# ## Noise along the way
#
# Stochastic samplers have the right mean and variance in the limit; each step forgets a part of the last one's
# errors.

# %%
figure, axes = plt.subplots(1, 4, figsize=(16, 4))
stochastic = [name for name, sampler in SAMPLERS.items() if sampler.stochastic]
for axis, name in zip(axes, stochastic, strict=True):
    times = make_grid("karras", process, 30)
    *_, step = SAMPLERS[name](
        modes, start(process, None, eps, float(times[0])), times, process, noise=lambda: torch.randn_like(eps)
    )
    axis.scatter(*step.x.flatten(1).T, s=3)
    axis.set(title=name, aspect="equal")
plt.show()
