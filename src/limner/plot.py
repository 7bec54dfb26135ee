"""Pictures of schedules, of the forward process and of a training run; every function returns the paths it wrote.

matplotlib draws into memory (Agg figures, made without pyplot), so that nothing opens a window or keeps state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limner.errors import DataError
from limner.files import read_metrics
from limner.process.schedules import Cosine, LinearBeta, Process, RectifiedFlow, ScaledLinearBeta

SCHEDULES: dict[str, Process] = {
    "linear": LinearBeta(),
    "cosine": Cosine(),
    "scaled-linear": ScaledLinearBeta(),
    "flow": RectifiedFlow(),
}
"""What is drawn when no processes are named."""


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def plot_schedules(out: Path, *, processes: Mapping[str, Process] | None = None) -> list[Path]:
    """Draw alpha, sigma and log SNR of processes over t into `out`/schedules.png."""
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    figure = _figure(12, 3.6)
    axes = figure.subplots(1, 3)
    for name, process in (processes or SCHEDULES).items():
        alpha, sigma = process.alpha(t), process.sigma(t)
        inner = (alpha > 0) & (sigma > 0)
        axes[0].plot(t, alpha, label=name)
        axes[1].plot(t, sigma, label=name)
        axes[2].plot(t[inner], process.log_snr(t[inner]), label=name)
    for axis, title in zip(axes, ("alpha: weight of the data", "sigma: weight of the noise", "log SNR"), strict=True):
        axis.set(title=title, xlabel="t  (0 data, 1 noise)", xlim=(0, 1))
        axis.grid(alpha=0.3)
    axes[2].set_ylim(-15, 15)
    axes[0].legend()
    return [_save(figure, Path(out) / "schedules.png")]


def plot_forward(
    out: Path, image: Tensor, *, processes: Mapping[str, Process] | None = None, num_times: int = 9, seed: int = 0
) -> list[Path]:
    """Draw one image on its way to noise, one row a process, with the same noise everywhere, into `out`/forward.png.

    Arguments:
        image: [C, H, W] in [-1, 1], C = 1 or 3.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise DataError(f"plot: expected an image of shape [1 or 3, H, W], got {list(image.shape)}.")
    chosen = processes or SCHEDULES
    eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(0, 1, num_times)
    figure = _figure(1.1 * num_times, 1.2 * len(chosen) + 0.3)
    axes = figure.subplots(len(chosen), num_times, squeeze=False)
    for place, (row, (name, process)) in enumerate(zip(axes, chosen.items(), strict=True)):
        many = process.add_noise(image.expand(num_times, *image.shape), eps.expand(num_times, *image.shape), times)
        for axis, x_t, t in zip(row, many, times.tolist(), strict=True):
            shown = ((x_t.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
            axis.imshow(shown.squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if place == 0:
                axis.set_title(f"t = {t:.2g}", fontsize=8)
        row[0].set_ylabel(name, fontsize=8)
    return [_save(figure, Path(out) / "forward.png")]


def plot_training(run_dir: Path, *, out: Path | None = None) -> list[Path]:
    """Draw the curves of `run_dir`/metrics.jsonl into `out` (else `run_dir`)/training.png.

    Loss (and its running mean) with the held-out loss, loss by time-bin, gradient norm, learning rate and images per
    second, over images seen.
    """
    path = Path(run_dir) / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; name the folder of a training run.")
    from matplotlib.ticker import EngFormatter, MaxNLocator

    rows = list(read_metrics(path))
    if not any("loss" in row for row in rows):
        raise DataError(f"{Path(run_dir) / 'metrics.jsonl'}: no line has a loss yet.")
    figure = _figure(13, 7)
    axes = figure.subplots(2, 3).ravel()
    _loss(axes[0], rows)
    _bins(axes[1], rows)
    for axis, key, title, scale in (
        (axes[2], "heldout_loss", "held-out loss", "log"),
        (axes[3], "grad_norm", "gradient norm", "log"),
        (axes[4], "learning_rate", "learning rate", "linear"),
        (axes[5], "images_per_second", "images per second", "linear"),
    ):
        x, y = _series(rows, key)
        axis.plot(x, y, marker="o" if 0 < len(x) < 30 else None, markersize=3)
        axis.set_title(title)
        if len(y) and scale == "log" and min(y) > 0:
            axis.set_yscale("log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_xlabel("images seen")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 150k
    return [_save(figure, Path(out or run_dir) / "training.png")]


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return the images seen and the values of one key, where it is a finite number."""
    pairs = [
        (float(row.get("images", row.get("step", i))), float(row[key]))
        for i, row in enumerate(rows)
        if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    ]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _loss(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    x, y = _series(rows, "loss")
    axis.plot(x, y, alpha=0.3, linewidth=0.8, label="loss")
    width = max(1, len(y) // 25)
    smooth = np.convolve(y, np.ones(width) / width, mode="valid")
    axis.plot(x[width - 1 :], smooth, label=f"mean of {width}")
    held_x, held_y = _series(rows, "heldout_loss")
    if held_x:
        axis.plot(held_x, held_y, marker="o", markersize=3, label="held out")
    if y and min(y) > 0:
        axis.set_yscale("log")
    axis.set_title("loss")
    axis.legend()


def _bins(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss of each time-bin, averaged over pieces of the run."""
    kept = [row for row in rows if isinstance(row.get("loss_bins"), list)]
    axis.set_title("loss by time-bin (dark: noise)")
    if not kept:
        return
    num = len(kept[-1]["loss_bins"])
    kept = [row for row in kept if len(row["loss_bins"]) == num]
    table = np.array([[math.nan if v is None else float(v) for v in row["loss_bins"]] for row in kept])
    x = np.array([float(row.get("images", row.get("step", i))) for i, row in enumerate(kept)])
    pieces = np.array_split(np.arange(len(kept)), min(40, len(kept)))
    for i in range(num):
        points = [(x[p].mean(), v.mean()) for p in pieces if len(v := table[p, i][np.isfinite(table[p, i])])]
        if points:
            axis.plot(*zip(*points, strict=True), color=(0.9 * (1 - i / num), 0.6 * (1 - i / num), 0.7), linewidth=1)
    axis.set_yscale("log", nonpositive="mask")


def schedules_command(out: Path, image: Path | None) -> list[Path]:
    """Draw the schedules and a picture's way to noise into `out`; the picture is a file's, or a digit.

    Raises: DataError for a file that is no picture.
    """
    from limner.codecs.base import to_float

    if image is None:
        from sklearn.datasets import load_digits  # comes with mlxtend

        small = torch.tensor(load_digits().images[3] * 15.9)[None, None]
        smooth = torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic", antialias=True)
        pixels = smooth[0].clamp(0, 255).to(torch.uint8)
    else:
        from PIL import Image

        try:
            with Image.open(image) as opened:
                pixels = torch.from_numpy(np.moveaxis(np.asarray(opened.convert("RGB").resize((64, 64))), -1, 0).copy())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{image}: not a picture that can be read.") from error
    return [*plot_schedules(out), *plot_forward(out, to_float(pixels))]
