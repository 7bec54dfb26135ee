"""A picture of progress: the same prompts with the same noise, again and again while training goes on."""

from __future__ import annotations

from pathlib import Path

from limner.data.store import Store
from limner.generate import generate, grid_image
from limner.model import Model
from limner.sampling import Sampling

NUM_ROWS = 4
NUM_COLUMNS = 10


def preview_prompts(store: Store) -> list[str]:
    """Return ten prompts: one a class (each in another wording) where there are classes, else captions spread over the data."""
    names = store.class_names
    if names:
        picked = [names[i * len(names) // NUM_COLUMNS] for i in range(NUM_COLUMNS)] if len(names) > NUM_COLUMNS else list(names)
        labels = [names.index(name) for name in picked]
        wordings = [store.class_captions(label) for label in labels]
        return [choices[i % len(choices)] for i, choices in enumerate(wordings)]
    captions = store.all_captions()
    return captions[:: max(1, len(captions) // NUM_COLUMNS)][:NUM_COLUMNS]


def write_preview(model: Model, sampling: Sampling, store: Store, path: Path) -> None:
    """Write a sheet of samples, one column a prompt, four rows of seeds."""
    prompts = preview_prompts(store) * NUM_ROWS
    images = [image for batch in generate(model, prompts, range(len(prompts)), sampling) for image in batch]
    path.parent.mkdir(parents=True, exist_ok=True)
    grid_image(images, columns=len(prompts) // NUM_ROWS, scale=max(1, 56 // max(images[0].shape[1:]))).save(path)
