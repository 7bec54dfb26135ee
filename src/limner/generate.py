"""Prompts and seeds -> images. A seed belongs to an image: image i of a batch equals the single run with its seed.

`generate` yields uint8 arrays batch by batch; `trajectory` yields every step of one batch; `write_images` puts PNGs with their facts
on disk, while the next batch is computed. Next: `training/loop.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from limner.errors import ConfigError, PromptError
from limner.files import write_text
from limner.guidance import GUIDANCE
from limner.model import Model
from limner.process.times import FittedGrid, make_grid
from limner.samplers import get_sampler, inpaint, start
from limner.sampling import Sampling
from limner.types import Conditioning, Denoise, Step

MAX_IMAGES = 1_000_000


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[Tensor, Callable[[], Tensor]]:
    """Return (eps [B, *shape], noise) where row i comes from a generator of its own, seeded with seeds[i].

    `noise()` gives the next [B, *shape] of the same generators, for stochastic samplers.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise() -> Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    return noise(), noise


@dataclass(frozen=True)
class Beginning:
    """Where a batch starts, when not from pure noise for its prompts.

    Arguments:
        x0: latents [B, C, H, W] of pictures to start from (image-to-image), with strength in (0, 1]: the time to start at.
        mask: [1 or B, 1, H, W] in latents' size, 1 where x0 is kept (inpainting).
        eps: noise [B, C, H, W] instead of the seeds' own (interpolation).
        conditioning: of the B images instead of the prompts' own (interpolation).
    """

    x0: Tensor | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    eps: Tensor | None = None
    conditioning: Conditioning | None = None


def guided(
    model: Model,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    negative: str | None = None,
    conditioning: Conditioning | None = None,
) -> Denoise:
    """Return `denoise(x_t, t)` for a batch of prompts, guidance and clipping included."""
    conditioning = conditioning if conditioning is not None else model.encode(list(prompts))
    null = model.encode([negative or ""] * len(prompts))
    own = {"rescale": sampling.rescale} if sampling.guidance_kind == "cfg" else {}
    described = {"kind": sampling.guidance_kind, "scale": sampling.guidance, "interval": sampling.interval, **own}
    guide: Any = GUIDANCE.parse(described)
    weak = model.weak.denoise if model.weak else None
    denoise = guide.apply(model.denoise, conditioning, null, process=model.process, weak=weak)
    if not sampling.clip:
        return denoise
    return lambda x_t, t: model.codec.clip(denoise(x_t, t))


def trajectory(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    *,
    negative: str | None = None,
    beginning: Beginning | None = None,
) -> Iterator[Step]:
    """Yield the steps of one batch; the last one's x is the sample, as latents."""
    sampling, beginning = sampling or model.config.sample, beginning or Beginning()
    sampler = get_sampler(sampling.sampler)
    eps, noise = initial_noise(seeds, model.latent_shape)
    eps = (beginning.eps if beginning.eps is not None else eps).to(model.device)
    t_max = model.config.t_max
    if beginning.x0 is not None:
        t_max = min(t_max, beginning.strength)
    times = make_grid(sampling.grid, model.process, sampling.steps, t_max=t_max)
    x = start(model.process, beginning.x0, eps, float(times[0])).float()
    denoise = guided(model, prompts, sampling, negative=negative, conditioning=beginning.conditioning)
    if beginning.mask is not None and beginning.x0 is not None:
        denoise = inpaint(denoise, beginning.x0, beginning.mask.expand_as(x))
    options: dict[str, Any] = {"eta": sampling.eta} if sampling.eta else {}
    if isinstance(sampling.grid, FittedGrid):
        options |= sampling.grid.options
    if sampler.stochastic or sampling.eta:
        options["noise"] = lambda: noise().to(model.device)
    yield from sampler(denoise, x, times, model.process, **options)


def generate(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    *,
    negative: str | None = None,
    batch_size: int = 100,
    beginning: Callable[[slice], Beginning] | None = None,
) -> Iterator[np.ndarray]:
    """Yield uint8 images [b, C, H, W] in the order of `prompts` and `seeds`, at most `batch_size` at once.

    Arguments:
        beginning: rows of the request -> where they start.
    Raises: ConfigError for unequal counts.
    """
    if len(prompts) != len(seeds):
        raise ConfigError(f"{len(prompts)} prompts for {len(seeds)} seeds; give one seed an image.")
    for row in range(0, len(prompts), batch_size):
        rows = slice(row, row + batch_size)
        step = None
        first = beginning(rows) if beginning else None
        for step in trajectory(model, prompts[rows], seeds[rows], sampling, negative=negative, beginning=first):  # noqa: B007
            pass
        assert step is not None
        yield model.codec.decode(step.x).cpu().numpy()


@dataclass(frozen=True)
class Picture:
    """One image with its facts: pixels [C, H, W] uint8."""

    index: int
    prompt: str
    seed: int
    pixels: np.ndarray

    def image(self) -> Image.Image:
        """Return the picture as a PIL image, L or RGB."""
        return to_pil(self.pixels)


def pictures(
    model: Model,
    prompts: Sequence[str],
    *,
    num: int = 1,
    seed: int = 0,
    sampling: Sampling | None = None,
    negative: str | None = None,
    batch_size: int = 100,
    beginning: Callable[[slice], Beginning] | None = None,
) -> Iterator[Picture]:
    """Yield `num` pictures for each prompt, prompt by prompt; picture i of all has seed `seed + i`.

    Raises: PromptError for a prompt the model cannot be asked; ConfigError for absurd counts. Before anything is computed.
    """
    check_request(model, prompts, num=num, seed=seed, batch_size=batch_size)
    each = [prompt for prompt in prompts for _ in range(num)]
    seeds = list(range(seed, seed + len(each)))
    index = 0
    for batch in generate(model, each, seeds, sampling, negative=negative, batch_size=batch_size, beginning=beginning):
        for pixels in batch:
            yield Picture(index, each[index], seeds[index], pixels)
            index += 1


def check_request(model: Model, prompts: Sequence[str], *, num: int, seed: int, batch_size: int) -> list[str]:
    """Return warnings about prompts; raise PromptError or ConfigError for what cannot be done."""
    if not prompts:
        raise PromptError("no prompt was given. Write one in quotes, or --prompts FILE with one a line.")
    if not 1 <= num * len(prompts) <= MAX_IMAGES:
        raise ConfigError(f"{num} images for each of {len(prompts)} prompts: between 1 and {MAX_IMAGES} images in all.")
    if not 0 <= seed <= 2**63 - 1 - num * len(prompts):
        raise ConfigError(f"seed {seed}: from 0 to 2^63 - 1.")
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: at least 1.")
    return [warning for prompt in dict.fromkeys(prompts) for warning in model.check(prompt)]


def generate_images(
    model: Model, prompts: list[str], *, seed: int, num: int, batch_size: int = 100, negative: str | None = None, **changes: Any
) -> list[Image.Image]:
    """Return PIL images; what `Model.generate` calls. `changes` replace fields of the model's sampling defaults."""
    sampling = changed(model.config.sample, changes)
    found = pictures(model, prompts, num=num, seed=seed, sampling=sampling, negative=negative, batch_size=batch_size)
    return [picture.image() for picture in found]


def changed(sampling: Sampling, changes: dict[str, Any]) -> Sampling:
    """Return sampling defaults with some fields replaced, validated; None leaves a field as it is.

    Raises: ConfigError naming the nearest field.
    """
    from limner.config import validate

    result = validate(Sampling, sampling.model_dump() | {k: v for k, v in changes.items() if v is not None})
    get_sampler(result.sampler)
    return result


# ---------------------------------------------------------------------------------------------------- on disk


def to_pil(pixels: np.ndarray) -> Image.Image:
    """Return [C, H, W] uint8 (C = 1 or 3) as a PIL image."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))


def grid_image(images: Sequence[np.ndarray], *, columns: int, scale: int = 1, gap: int = 2) -> Image.Image:
    """Return images [C, H, W] uint8 laid out row by row, enlarged by whole pixels."""
    c, h, w = images[0].shape
    rows = -(-len(images) // columns)
    sheet = np.full((c, rows * (h + gap) + gap, columns * (w + gap) + gap), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (h + gap) + gap, (i % columns) * (w + gap) + gap
        sheet[:, y : y + h, x : x + w] = image
    picture = to_pil(sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def facts(model: Model, sampling: Sampling, picture: Picture, *, negative: str | None = None) -> dict[str, Any]:
    """Return what has to be known to make a picture again: one line of images.jsonl."""
    return {
        "file": f"{picture.index:05d}.png",
        "prompt": picture.prompt,
        "negative_prompt": negative or "",
        "seed": picture.seed,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "grid": sampling.grid.model_dump(mode="json") if isinstance(sampling.grid, FittedGrid) else sampling.grid,
        "guidance": sampling.guidance,
        "guidance_kind": sampling.guidance_kind,
        "interval": list(sampling.interval),
        "rescale": sampling.rescale,
        "eta": sampling.eta,
        "clip": sampling.clip,
        "model": model.sha256,
        "precision": model.precision,
        "size": [picture.pixels.shape[2], picture.pixels.shape[1]],
        "versions": {"limner": metadata.version("limner"), "torch": torch.__version__},
        "format": 1,
    }


def png_chunks(facts: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """Return a picture's facts as PNG text: `parameters` as A1111 writes it, and `limner`, one JSON object."""
    lines = [facts["prompt"]]
    if facts["negative_prompt"]:
        lines.append(f"Negative prompt: {facts['negative_prompt']}")
    width, height = facts["size"]
    lines.append(
        f"Steps: {facts['steps']}, Sampler: {facts['sampler']}, CFG scale: {facts['guidance']:g}, Seed: {facts['seed']}, "
        f"Size: {width}x{height}, Model hash: {facts['model'][:10]}"
    )
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", "\n".join(lines))
    chunks.add_itxt("limner", json.dumps(facts, ensure_ascii=False))
    return chunks


def read_facts(path: Path) -> dict[str, Any] | None:
    """Return the facts in a PNG's `limner` chunk, or None when it has none. Parsed as JSON, never evaluated."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get("limner")
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_images(
    model: Model,
    found: Iterator[Picture],
    out: Path,
    sampling: Sampling,
    *,
    columns: int,
    negative: str | None = None,
    text_chunks: bool = True,
    extra: dict[str, Any] | None = None,
) -> Iterator[Picture]:
    """Write OUT/00000.png ..., images.jsonl and grid.png; yield each picture when it is handed to the disk.

    PNGs are compressed in a second thread while the next batch is computed.
    Raises: ConfigError when the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}.") from error
    lines: list[str] = []
    shown: list[np.ndarray] = []
    with ThreadPoolExecutor(1) as writer:
        jobs = []
        for picture in found:
            known = facts(model, sampling, picture, negative=negative) | (extra or {})
            lines.append(json.dumps(known, ensure_ascii=False))
            chunks = png_chunks(known) if text_chunks else None
            jobs.append(writer.submit(picture.image().save, out / known["file"], pnginfo=chunks))
            if len(shown) < 400:
                shown.append(picture.pixels)
            yield picture
        try:
            for job in jobs:
                job.result()
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written: {error.strerror}.") from error
    write_text(out / "images.jsonl", "\n".join(lines) + "\n")
    size = max(shown[0].shape[1:])
    grid_image(shown, columns=columns, scale=max(1, 56 // size)).save(out / "grid.png")
