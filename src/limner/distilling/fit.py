"""Fitting a student to the chords of its teacher's paths.

From the teacher's state at one of the student's times it is asked for the mean velocity to the next:

    v* = (z(tau_i) - z(tau_i+1)) / (tau_i - tau_i+1)           loss = mean|v - v*|²,   v = (z - x0)/tau

Euler's step with that v lands where several guided steps of the teacher end. The student begins with the teacher's
weights, and is of the same network, process and target: an ordinary model. The text encoder is not trained. The budget
goes first into a pool of paths, then into passes over it.

Source: Luhman & Luhman 2021 (a student of the whole path), Salimans & Ho 2022 (of parts of it), Meng et al. 2023 (with
guidance folded in). Differs: one round with a multistep solver in place of repeated halving. Next: `../distill.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from limner.distilling.paths import Pool, check_steps, make_pool, student_sampling, student_times
from limner.errors import ConfigError, NumericalError
from limner.generate import changed
from limner.model import Model, autocast
from limner.process.schedules import expand
from limner.training.ema import PowerEMA
from limner.types import Conditioning

METHOD = "chords of the teacher's guided paths"
POOL_SHARE = 0.35
"""Part of a budget in seconds that is spent on the teacher's paths."""
PASSES = 6
"""How often each path is seen where the budget is in images; a budget in seconds comes to about the same."""
TABLE = 1024  # up to so many prompts are encoded once and for all
WARMUP = 50
EMA_WIDTH = 0.10
LOG_STEPS = 50
TELL_SECONDS = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """What a distillation may take: one of the two.

    Arguments:
        seconds: wall time, the teacher's paths included.
        images: rows of the student's batches; the result is then the same every time.
    """

    seconds: float | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.images is None):
            raise ConfigError("distill: give one budget, either --seconds 120 or --images 60000.")
        given = self.images if self.seconds is None else self.seconds
        if given is None or not 0 < given < math.inf:
            raise ConfigError(f"distill: a budget must be above 0, not {given}.")


@dataclass(frozen=True)
class Options:
    """How the student is fitted: AdamW with a linear decay of `lr` to 0, batches of `batch` rows over all segments."""

    batch: int = 128
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """A student.

    Arguments:
        metrics: lines {step, images, seconds, loss, loss_segments, learning_rate}.
        facts: method, teacher, guidance, steps, paths, images, seconds, seed.
    """

    model: Model
    metrics: list[dict[str, Any]]
    facts: dict[str, Any]


def distill(
    teacher: Model,
    prompts: Sequence[str],
    *,
    steps: int,
    budget: Budget,
    guidance: float | None = None,
    options: Options | None = None,
    say: Say = lambda words: None,
) -> Distilled:
    """Return a student of `steps` evaluations, on the teacher's device; the teacher is left as it is, and they share a text encoder.

    Arguments:
        prompts: what the student is taught to answer, drawn evenly.
        guidance: the scale that is folded in; by default the teacher's own. say: told about progress.
    Raises: ConfigError for steps not in (1, 2, 4), no prompts, or a teacher that is a student itself; NumericalError
        when the teacher's paths or the loss are not finite.
    """
    begun = perf_counter()
    options, config = options or Options(), teacher.config
    check_steps(steps)
    if not prompts:
        raise ConfigError("distill: there are no prompts to teach.")
    if "distilled" in config.provenance:
        raise ConfigError("distill: this model is a student already; distil its teacher.")
    sampling = changed(config.sample, {"guidance": guidance})
    generator = torch.Generator().manual_seed(options.seed)
    pool = make_pool(
        teacher,
        prompts,
        sampling,
        steps,
        batch=options.batch,
        generator=generator,
        most=None if budget.images is None else max(1, budget.images // PASSES),
        enough=lambda: budget.seconds is not None and perf_counter() - begun > POOL_SHARE * budget.seconds,
    )
    paths_seconds = perf_counter() - begun
    say(f"{len(pool)} paths of the teacher in {paths_seconds:.0f} s")
    times, _ = student_times(config.process, steps, t_max=config.t_max)
    student = Model(config, teacher.text, copy.deepcopy(teacher.network), precision=teacher.precision)
    metrics = list(fit(student, pool, times, budget, options, generator, begun=begun, say=say))
    facts = {
        "method": METHOD,
        "teacher": teacher.sha256,
        "guidance": sampling.guidance,
        "guidance_kind": sampling.guidance_kind,
        "steps": steps,
        "paths": len(pool),
        "paths_seconds": round(paths_seconds, 2),
        "images": metrics[-1]["images"],
        "seconds": round(perf_counter() - begun, 2),
        "seed": options.seed,
    }
    provenance = config.provenance | {"distilled": facts, "ema": EMA_WIDTH, "precision": teacher.precision}
    student.config = config.model_copy(update={"sample": student_sampling(times), "provenance": provenance})
    return Distilled(student, metrics, facts)


def fit(
    student: Model,
    pool: Pool,
    times: Tensor,
    budget: Budget,
    options: Options,
    generator: torch.Generator,
    *,
    begun: float,
    say: Say = lambda words: None,
) -> Iterator[dict[str, Any]]:
    """Train the student's network on the pool, and yield lines of metrics; it ends with its averaged weights.

    Arguments:
        times: the student's N + 1. begun: when the budget's seconds began (perf_counter).
    Raises: NumericalError when the loss or its gradient is not finite.
    """
    network, device, num_segments = student.network, student.device, len(times) - 1
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=options.lr, betas=options.betas, weight_decay=0.0, fused=True)
    average = PowerEMA(named, EMA_WIDTH)
    encode = _encoder(student, pool.prompts)
    torch.manual_seed(options.seed)  # dropout
    network.train()
    sums = torch.zeros(2, num_segments, dtype=torch.float64)
    order = torch.empty(0, dtype=torch.long)
    started = told = perf_counter()
    step, done = 0, 0.0
    while done < 1:
        while len(order) < options.batch:
            order = torch.cat([order, torch.randperm(len(pool), generator=generator)])
        rows, order = order[: options.batch], order[options.batch :]
        segment = (torch.arange(options.batch) + step) % num_segments
        lr = options.lr * min(1.0, (step + 1) / WARMUP) * (1 - done)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        z, z_next = (pool.z[rows, segment + k].to(device).float() for k in (0, 1))
        asked = encode(pool.rows[rows])
        losses = chord_losses(student, z, z_next, times[segment].to(device), times[segment + 1].to(device), asked)
        losses.mean().backward()
        norm = float(torch.nn.utils.clip_grad_norm_(named.values(), options.clip))
        sums.index_add_(1, segment, torch.stack([losses.detach().double().cpu(), torch.ones(len(segment)).double()]))
        if not (math.isfinite(norm) and bool(torch.isfinite(sums).all())):
            raise NumericalError(
                f"distill: the loss or the gradient norm ({norm:.4g}) is not finite at step {step + 1}. Nothing was "
                "saved. Lower --guidance, or train the teacher longer."
            )
        optimizer.step()
        step += 1
        average.update(named.values(), step)
        now, images = perf_counter(), step * options.batch
        done = (
            (now - started) / max(begun + budget.seconds - started, 1e-09)
            if budget.seconds is not None
            else images / (budget.images or 1)
        )
        if step % LOG_STEPS and done < 1:
            continue
        line = {
            "step": step,
            "images": images,
            "seconds": round(now - begun, 3),
            "loss": float(sums[0].sum() / sums[1].sum()),
            "loss_segments": [float(total / num) if num else None for total, num in zip(*sums, strict=True)],
            "learning_rate": lr,
        }
        sums.zero_()
        yield line
        if now - told > TELL_SECONDS or done >= 1:
            told = now
            say(f"{min(done, 1):.0%}  loss {line['loss']:.4f}  {images / (now - started):.0f} images/s")
    network.load_state_dict(network.state_dict() | average.state_dict())
    network.eval()


def chord_losses(student: Model, z: Tensor, z_next: Tensor, t: Tensor, t_next: Tensor, asked: Conditioning) -> Tensor:
    """Return each row's mean |v - v*|² [B].

    Arguments:
        z, z_next: [B, C, H, W] the teacher's states in the flow's scale, at the times t and t_next [B] float64.
        asked: the conditioning of the B paths.
    """
    process = student.process
    total = process.alpha(t) + process.sigma(t)
    tau = process.sigma(t) / total
    tau_next = process.sigma(t_next) / (process.alpha(t_next) + process.sigma(t_next))
    wanted = (z - z_next) / expand((tau - tau_next).float(), z)
    x = z * expand(total.float(), z)
    with autocast(student.device, student.precision):
        y = student.network(x, t.float(), asked)
    x0 = student.target.x0(process, x, y.float(), t.float())
    return ((z - x0) / expand(tau.float(), z) - wanted).square().flatten(1).mean(1)


def _encoder(model: Model, prompts: list[str]) -> Callable[[Tensor], Conditioning]:
    """Return rows [B] of the prompts -> their Conditioning; few prompts are encoded once."""
    if len(prompts) > TABLE:
        return lambda rows: model.encode([prompts[i] for i in rows.tolist()])
    table = model.encode(prompts)
    return lambda rows: table[rows.to(model.device)]
