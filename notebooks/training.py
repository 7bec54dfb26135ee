# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training in a notebook
# The same package and the same recipes as `limner train`, in **one process**: this notebook. Several GPUs need
# several processes;
# for those, submit the recipe: `limner cluster submit digits --gpus 8`.
#
# To a notebook: `jupytext --to ipynb training.py`. To a script again: `jupytext --to py training.ipynb`, then
# `python training.py`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

import limner
from limner.recipe import find
from limner.training.loop import train

SECONDS = float(os.environ.get("LIMNER_NOTEBOOK_SECONDS", "60"))

# %% [markdown]
# ## The recipe
# Any recipe's name or file; changes are written as on the command line.

# %%
recipe = find("digits", [f"train.seconds={SECONDS}", "train.trackers=[]"])
run = Path("runs") / "notebook"

# %% [markdown]
# ## Training
# `train` is a generator of steps: stop the cell and run it again, and it goes on where it was saved.

# %%
losses = []
for log in train(recipe, run, resume=(run / "config.yaml").is_file()):
    if "loss" in log.numbers:
        losses.append((log.images, log.numbers["loss"]))
print(f"{log.images:,} images in {log.seconds:.0f} s")

# %%
plt.plot(*zip(*losses, strict=True))
plt.xlabel("images")
plt.ylabel("loss")
plt.show()

# %% [markdown]
# ## Sampling
# The run's model folder holds everything that is needed to turn a prompt into pixels.

# %%
model = limner.load(str(run))
images = model.generate(["a handwritten digit 7", "a handwritten digit 3"], num=4, seed=0)
figure, axes = plt.subplots(1, len(images), figsize=(1.2 * len(images), 1.4))
for axis, image in zip(axes, images, strict=True):
    axis.imshow(image, cmap="gray")
    axis.axis("off")
plt.show()
