"""What `limner sample` and `limner fit-grid` do: prompts from files, image-to-image, interpolation, trajectories, loops.

Everything about a request that can be refused is refused before a network is evaluated. Next: `generate.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner.allocator import keep_freed_memory
from limner.data.decoding import MAX_PIXELS
from limner.errors import CheckpointError, ConfigError, MissingError, PromptError
from limner.files import write_text
from limner.generate import (
    Beginning,
    Picture,
    changed,
    check_request,
    grid_image,
    guided,
    initial_noise,
    pictures,
    trajectory,
    write_images,
)
from limner.model import Model, load
from limner.sampling import Sampling
from limner.snapshots import put_ema, weak_model
from limner.types import Conditioning

MAX_PROMPTS = 100_000
MAX_PROMPT_CHARACTERS = 10_000
TRAJECTORY_IMAGES = 16


@dataclass(frozen=True)
class Request:
    """One call of `limner sample`; see its --help."""

    run: Path
    prompts: list[str]
    num: int = 1
    seed: int = 0
    batch_size: int = 100
    changes: dict[str, Any] = field(default_factory=dict)
    negative: str | None = None
    ema: str | None = None
    precision: str = "auto"
    image: Path | None = None
    strength: float = 0.6
    mask: Path | None = None
    trajectory: Path | None = None
    interpolate: int | None = None
    forever: bool = False
    metadata: bool = True
    allow: tuple[str, ...] = ()
    out: Path = Path("samples")


def read_prompts(given: list[str], path: Path | None) -> list[str]:
    """Return the prompts of the command line and of a file with one a line; blank lines are passed over.

    Raises: PromptError for no, empty or far too long prompts; ConfigError for a file that cannot be read.
    """
    prompts = list(given)
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"--prompts {path}: there is no such file.")
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"--prompts {path}: not a text file in UTF-8, with one prompt a line.") from error
        prompts += [line.strip() for line in text.splitlines() if line.strip()]
        if not prompts:
            raise PromptError(f"--prompts {path}: there is no prompt in this file; write one a line.")
    if len(prompts) > MAX_PROMPTS:
        raise ConfigError(f"{len(prompts)} prompts: at most {MAX_PROMPTS} at once.")
    for i, prompt in enumerate(prompts):
        if not prompt.strip():
            raise PromptError(f"prompt {i + 1} is empty. For pictures without a prompt give any known one and --guidance 0.")
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise PromptError(f"prompt {i + 1} has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS}.")
    return prompts


def interval_of(text: str | None) -> tuple[float, float] | None:
    """Return the two times of "LOW,HIGH"; raise ConfigError when it is something else."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--interval {text!r}: two times LOW,HIGH, such as 0.1,0.9.") from error
    return low, high


def sampling_of(model: Model, changes: dict[str, Any]) -> Sampling:
    """Return the model's sampling with changes; a grid that is a file is read, and brings its steps and sampler along."""
    changes = {key: value for key, value in changes.items() if value is not None}
    if str(changes.get("grid", "")).endswith(".json"):
        path = Path(changes["grid"])
        try:
            grid = json.loads(path.read_text(encoding="utf-8"))["grid"]
            changes = {"steps": len(grid["times"]) - 1, "sampler": grid["sampler"]} | changes | {"grid": grid}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--grid {path}: not a fitted grid; make one with: limner fit-grid RUN") from error
    return changed(model.config.sample, changes)


def run(request: Request, *, say: Callable[[str], None]) -> None:
    """Do what a Request asks; files land in its `out`.

    Raises: LimnerError of every kind, before anything is written wherever that can be known.
    """
    keep_freed_memory()
    model = load(request.run, precision=request.precision, allow=request.allow)
    if request.ema is not None:
        put_ema(model, request.run, request.ema)
    sampling = sampling_of(model, request.changes)
    if sampling.guidance_kind == "auto":
        model.weak = weak_model(model, request.run)
    for warning in check_request(model, request.prompts, num=request.num, seed=request.seed, batch_size=request.batch_size):
        say(f"warning: {warning}")
    if request.negative:
        model.check(request.negative)
    if request.out.exists() and not request.out.is_dir():
        raise ConfigError(f"--out {request.out}: is a file, not a folder.")
    _refuse_what_would_be_ignored(request)
    if not 0 < request.strength <= 1:
        raise ConfigError(f"--strength {request.strength}: above 0 and at most 1.")
    prompts, beginning = request.prompts, None
    if request.interpolate is not None:
        prompts, beginning = _interpolation(model, request)
    elif request.image:
        beginning = _from_image(model, request)
    if request.forever:
        _forever(model, sampling, request, say)
        return

    def made() -> Iterator[Picture]:
        yield from pictures(
            model,
            prompts,
            num=1 if request.interpolate else request.num,
            seed=request.seed,
            sampling=sampling,
            negative=request.negative,
            batch_size=request.batch_size,
            beginning=beginning,
        )

    columns = request.num if request.num > 1 else min(10, len(prompts))
    extra = {"image": request.image and request.image.name, "strength": request.strength, "ema": request.ema}
    extra = {k: v for k, v in extra.items() if v is not None and (request.image or k == "ema")}
    for _ in write_images(
        model, made(), request.out, sampling, columns=columns, negative=request.negative, text_chunks=request.metadata, extra=extra
    ):
        pass
    if request.trajectory:
        _trajectory(model, prompts, sampling, request, beginning)


def _refuse_what_would_be_ignored(request: Request) -> None:
    """Raise ConfigError for options that do not go together, before anything is computed."""
    if request.mask and not request.image:
        raise ConfigError("--mask: only together with --image.")
    if request.interpolate is not None and (request.image or request.num != 1):
        raise ConfigError("--interpolate: not together with --image or --num.")
    if request.forever and (request.image or request.interpolate is not None or request.trajectory):
        raise ConfigError("--forever: not together with --image, --interpolate or --trajectory.")
    if request.trajectory and request.trajectory.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"--trajectory {request.trajectory}: a .gif or .mp4 file.")


def _picture(path: Path, model: Model, mode: str) -> Tensor:
    """Return a picture file as uint8 [1, C, H, W] in the model's size; refuse what is no picture or far too large."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such picture.")
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ConfigError(f"{path}: {opened.width}x{opened.height} pixels are too many; at most {MAX_PIXELS}.")
            height, width = model.config.size
            image = opened.convert(mode).resize((width, height), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not a picture that can be read.") from error
    pixels = np.asarray(image, dtype=np.uint8)
    return torch.from_numpy(pixels[None, None].copy() if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)[None].copy())


def _from_image(model: Model, request: Request) -> Callable[[slice], Beginning]:
    """Return where image-to-image starts: the picture at the time `strength`; under a mask, only its white part is repainted."""
    assert request.image is not None
    x0 = model.codec.encode(_picture(request.image, model, "L" if model.config.channels == 1 else "RGB")).to(model.device)
    mask = None
    if request.mask:
        white = _picture(request.mask, model, "L").float() / 255
        kept = (1 - white).round()
        mask = torch.nn.functional.interpolate(kept, size=x0.shape[2:], mode="nearest").to(model.device)
    total = len(request.prompts) * request.num

    def rows_of(rows: slice) -> Beginning:
        count = len(range(*rows.indices(total)))
        strength = 1.0 if mask is not None else request.strength
        return Beginning(x0.expand(count, -1, -1, -1), strength, mask)

    return rows_of


def _interpolation(model: Model, request: Request) -> tuple[list[str], Callable[[slice], Beginning]]:
    """Return (prompts, where each image starts): conditioning on a line and noise on a great circle, from the first to the last."""
    from limner.samplers import slerp

    count = request.interpolate or 0
    if not 2 <= count <= 10_000:
        raise ConfigError(f"--interpolate {count}: from 2 to 10000 images.")
    ends = [request.prompts[0], request.prompts[-1]]
    noise, _ = initial_noise([request.seed, request.seed + 1], model.latent_shape)
    weights = [i / (count - 1) for i in range(count)]
    eps = torch.cat([slerp(noise[:1], noise[1:], weight) for weight in weights])
    both = model.encode(ends)
    w = torch.tensor(weights, device=model.device)
    tokens = torch.lerp(both.tokens[:1], both.tokens[1:], w[:, None, None])
    pooled = torch.lerp(both.pooled[:1], both.pooled[1:], w[:, None])
    mask = (both.mask[:1] | both.mask[1:]).expand(count, -1)

    def rows_of(rows: slice) -> Beginning:
        return Beginning(eps=eps[rows], conditioning=Conditioning(tokens[rows], mask[rows], pooled[rows]))

    return [ends[0] if weight < 0.5 else ends[1] for weight in weights], rows_of


def _trajectory(
    model: Model, prompts: list[str], sampling: Sampling, request: Request, beginning: Callable[[slice], Beginning] | None
) -> None:
    """Write the steps of the first images as a GIF (or MP4, where imageio with ffmpeg is installed): state above, x0 below."""
    path = request.trajectory
    assert path is not None
    each = [prompt for prompt in prompts for _ in range(1 if request.interpolate else request.num)][:TRAJECTORY_IMAGES]
    seeds = range(request.seed, request.seed + len(each))
    first = beginning(slice(0, len(each))) if beginning else None
    frames = []
    for step in trajectory(model, each, seeds, sampling, negative=request.negative, beginning=first):
        both = [*model.codec.decode(step.x).cpu().numpy(), *model.codec.decode(step.x0).cpu().numpy()]
        frames.append(grid_image(both, columns=len(each), scale=max(1, 56 // max(model.config.size))))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        frames[0].save(path, save_all=True, append_images=[*frames[1:], *[frames[-1]] * 8], duration=120, loop=0)
        return
    try:
        import imageio.v3 as imageio

        even = [np.asarray(f.convert("RGB").resize((f.width // 2 * 2, f.height // 2 * 2))) for f in frames]
        imageio.imwrite(path, np.stack(even), fps=8)
    except (ImportError, ValueError, OSError) as error:
        raise MissingError("--trajectory FILE.mp4 needs: pip install imageio imageio-ffmpeg. A .gif needs nothing.") from error


def _forever(model: Model, sampling: Sampling, request: Request, say: Callable[[str], None]) -> None:
    """Write round after round, each with the next seeds, into OUT/round-00000 ..., until Ctrl-C."""
    number, seed = 0, request.seed
    try:
        while True:
            found = pictures(
                model,
                request.prompts,
                num=request.num,
                seed=seed,
                sampling=sampling,
                negative=request.negative,
                batch_size=request.batch_size,
            )
            folder = request.out / f"round-{number:05d}"
            columns = request.num if request.num > 1 else min(10, len(request.prompts))
            made = sum(1 for _ in write_images(model, found, folder, sampling, columns=columns, negative=request.negative))
            say(f"{folder}  seeds {seed} to {seed + made - 1}")
            number, seed = number + 1, seed + made
    except KeyboardInterrupt:
        say("stopped.")


def fit(
    run: Path,
    *,
    steps: int,
    sampler: str,
    guidance: float | None,
    coefficients: bool,
    num: int,
    seed: int,
    out: Path | None,
) -> tuple[Path, str]:
    """Fit a grid of few steps to a model under its own guidance; return (file, words about it)."""
    from limner import fitting

    model = load(run)
    sampling = changed(model.config.sample, {"guidance": guidance, "sampler": sampler, "grid": "uniform", "steps": steps})
    prompts = list(model.config.captions) or list(model.config.labels)
    if not prompts:
        raise CheckpointError(f"{run}: its model.json names no captions to fit with.")
    chosen = [prompts[i % len(prompts)] for i in range(num)]
    eps = initial_noise(range(seed, seed + num), model.latent_shape)[0].to(model.device)
    grid = fitting.fit_grid(
        guided(model, chosen[0::2], sampling),
        model.process,
        eps,
        steps,
        check=guided(model, chosen[1::2], sampling),
        sampler=sampler,
        learn_coefficients=coefficients,
        t_max=model.config.t_max,
    )
    path = out or Path(run) / "grids" / f"{sampler}-{steps}.json"
    write_text(
        path, json.dumps({"grid": grid.model_dump(mode="json"), "model": model.sha256, "guidance": sampling.guidance}, indent=1)
    )
    times = ", ".join(f"{t:.3f}" for t in grid.times)
    return path, f"times {times}\nroot mean square distance to the reference {grid.error:.4f}, best fixed grid {grid.baseline:.4f}"
