"""The training loop: a generator of step logs. Iterate it to train; stop iterating to stop. No Trainer, no callbacks.

    for log in train(recipe, run):
        ...

The path of a step: `order` says which images and random numbers belong to it, `objective.Learner` gives the loss, AdamW steps, the
averages follow, and whoever asked for a stop (a signal, the budget, a non-finite number) is heard by all processes together.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limner.cluster.monitor import sample as usage
from limner.codecs import Codec
from limner.data.order import Order, draws
from limner.data.store import Store
from limner.errors import CheckpointError, ConfigError, NumericalError
from limner.files import write_text
from limner.model import Model, ModelConfig, assemble, autocast, probe_precision
from limner.plan import refuse_if_too_large
from limner.recipe import Recipe, Train, to_yaml
from limner.samplers import get_sampler
from limner.training import checkpoint, sharding
from limner.training.devices import StopFlag, accelerator, agree, average, catching_signals
from limner.training.ema import PowerEMA
from limner.training.objective import Learner
from limner.training.preview import write_preview
from limner.training.tracking import Metrics, environment

NUM_BINS = 10


@dataclass(frozen=True)
class StepLog:
    """What happened up to a step.

    Arguments:
        step, images, seconds: done so far. budget: share of the budget used, in [0, 1].
        numbers: the line of metrics, on the steps that wrote one; else empty.
        ids: image indices of this process's part of the batch.
        notices: sentences for the user. finished, stopped: why the run ends after this step (stopped: the signal's name).
    """

    step: int
    images: int
    seconds: float
    budget: float
    numbers: dict[str, Any] = field(default_factory=dict)
    ids: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()
    finished: bool = False
    stopped: str | None = None


def learning_rate(train: Train, step: int, budget: float) -> float:
    """Return the factor on the learning rate at step 0, 1, ... with `budget` in [0, 1] used: warm-up times decay."""
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    decay = {"linear": 1 - budget, "cosine": 0.5 * (1 + math.cos(math.pi * budget)), "constant": 1.0}[train.decay]
    return warm * decay


def collate(
    store: Store, codec: Codec, train: Train, ids: np.ndarray, positions: range, latent_shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Return (latents, eps [B C H W], u [B] for the draw of times, captions) of some positions of the run.

    Flips, shifts, which caption and whether it is dropped are decided by the numbers that belong to each position.
    """
    random = draws(train.seed, positions, latent_shape)
    pixels = np.asarray(store.images[ids])
    if train.flip:
        pixels = np.where(random.flip[:, None, None, None] < 0.5, pixels[..., ::-1], pixels)
    if train.shift:
        pixels = _shifted(pixels, random.shift, train.shift)
    captions = []
    for i, index in enumerate(ids.tolist()):
        choices = store.captions_of(index)
        captions.append("" if random.drop[i] < train.drop else choices[int(random.caption[i] * len(choices))])
    latents = codec.encode(torch.from_numpy(np.ascontiguousarray(pixels)))
    return latents, torch.from_numpy(random.eps), torch.from_numpy(random.time.astype(np.float32)), captions


def _shifted(pixels: np.ndarray, u: np.ndarray, most: int) -> np.ndarray:
    """Return images moved by whole pixels, up to `most` each way, edges repeated."""
    h, w = pixels.shape[-2:]
    padded = np.pad(pixels, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
    moves = np.floor(u * (2 * most + 1)).astype(int)
    return np.stack([padded[i, :, dy : dy + h, dx : dx + w] for i, (dy, dx) in enumerate(moves.tolist())])


def train(recipe: Recipe, run: Path, *, cache: Path = Path("cache"), resume: bool = False) -> Iterator[StepLog]:
    """Train a recipe in a run folder; yield a StepLog after every step.

    Arguments:
        cache: where decoded data stores are kept.
        resume: go on from the newest whole checkpoint; a run without one starts from the beginning.
    Raises: ConfigError, DataError before anything is written; NumericalError when the loss is not finite; CheckpointError when the
        disk refuses. The newest checkpoint is intact after any of them.
    """
    with catching_signals() as flag:
        session = Session(recipe, run, cache=cache, resume=resume)
        yield from session.steps(flag)


class Session:
    """One process's part of a training run: what `train` sets up before its first step."""

    def __init__(self, recipe: Recipe, run: Path, *, cache: Path, resume: bool) -> None:
        self.recipe, self.run = recipe, run
        self.notices: list[str] = []
        self.accelerator = accelerator()
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        portion = self.world * recipe.train.accumulate
        if recipe.train.batch % portion:
            raise ConfigError(
                f"train.batch: {recipe.train.batch} images do not divide among {self.world} processes x {recipe.train.accumulate} "
                f"accumulation = {portion} portions. Choose a multiple of {portion}."
            )
        get_sampler(recipe.sample.sampler)  # of the previews: refused now, not at the first one
        with self.accelerator.main_process_first():
            self.store = recipe.data.open(cache)
        if recipe.data.shape is None:  # only now is it known how large the images are
            refuse_if_too_large(recipe, world=self.world, shape=tuple(self.store.images.shape[1:]))
        self.notices += [*self.store.notices, *_bad_files(self.store)]
        torch.manual_seed(recipe.train.seed)
        self.model = build_model(recipe, self.store)
        self.order = Order(self.store.split("train"), recipe.train.seed)
        self.step, self.images, self.seconds = 0, 0, 0.0
        self._prepare(resume)

    # ------------------------------------------------------------------------------------------------ set-up

    def _prepare(self, resume: bool) -> None:
        """Make the learner, the optimizer and the averages, and put a checkpoint back into them."""
        train = self.recipe.train
        self.window = Window()
        if resume and self.accelerator.is_main_process:
            checkpoint.tidy(self.run)
        self.accelerator.wait_for_everyone()
        found, notices = checkpoint.latest(self.run) if resume else (None, [])
        if notices and not found:
            raise CheckpointError(
                "\n".join([*notices[:4], f"No whole checkpoint is left in {self.run}; start anew with another --out."])
            )
        self.notices += notices
        tensors, state = checkpoint.load(found) if found else ({}, {})
        self.precision = state.get("precision") or self._precision()
        self.learner = Learner(
            self.model.text,
            self.model.network,
            process=self.recipe.process,
            target=self.recipe.target,
            weighting=self.recipe.weighting,
        )
        self.learner.train()
        if tensors:
            self._put_weights(tensors, str(found))
        self.learner.to(self.accelerator.device)
        if train.compile:
            for part in sharding.units(self.learner.network):  # by block: one graph, compiled once
                part.compile()
        self.shadow = self._shadow()
        self.sharded = train.shard and self.world > 1
        if self.sharded:
            sharding.shard(self.learner, self.accelerator.device, self.world)
        self.named = {name: p for name, p in self.learner.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.optimizer = self._optimizer()
        self.averages = [PowerEMA(self.named, width) for width in train.ema]
        if tensors:
            checkpoint.load_optimizer(self.optimizer, tensors["optimizer"], list(self.named))
            for ema in self.averages:
                ema.load_state_dict(tensors[ema.name])
            self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
            self.window = Window.of(state.get("window"))
            self.notices.append(f"going on from step {self.step} ({self.images} images), {found}")
        self.wrapped = self.accelerator.prepare_model(self.learner) if self.world > 1 and not self.sharded else self.learner

    def _put_weights(self, tensors: dict[str, dict[str, Tensor]], found: str) -> None:
        """Put a checkpoint's weights into the learner; raise CheckpointError when they are of another recipe."""
        shapes = {name: tuple(p.shape) for name, p in self.learner.named_parameters() if p.requires_grad}
        files = ["learner", "optimizer", *(PowerEMA({}, width).name for width in self.recipe.train.ema)]
        missing = [name for name in files if name not in tensors]
        if missing or {name: tuple(value.shape) for name, value in tensors["learner"].items()} != shapes:
            what = f"has no {missing[0]}" if missing else "has weights of other names or shapes"
            raise CheckpointError(f"{found}: {what}: it is of another recipe. Go on with the run's own, or choose another --out.")
        self.learner.load_state_dict(tensors["learner"], strict=False)

    def _precision(self) -> str:
        """Return fp32 or bf16, timed on the main process and the same on all."""
        if self.recipe.train.precision != "auto":
            return self.recipe.train.precision
        choice = probe_precision(self.model.to(self.accelerator.device)) if self.rank == 0 else "fp32"
        return "bf16" if agree([float(choice == "bf16")], self.accelerator.device)[0] else "fp32"

    def _optimizer(self) -> torch.optim.Optimizer:
        train = self.recipe.train
        text = [p for name, p in self.named.items() if name.startswith("text.")]
        network = [p for name, p in self.named.items() if not name.startswith("text.")]
        groups = [{"params": group, "base": lr} for group, lr in ((text, train.text_lr or train.lr), (network, train.lr)) if group]
        self.named = {name: p for name, p in self.named.items() if name.startswith("text.")} | self.named
        self.parameters = list(self.named.values())
        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True)

    def _shadow(self) -> Learner:
        """Return a second learner to hold averaged weights for previews, held-out loss and the model folder."""
        with torch.random.fork_rng():
            model = build_model(self.recipe, self.store, text=self.model.text)
        learner = Learner(model.text, model.network, process=self.recipe.process, target=self.recipe.target)
        return learner.to(self.accelerator.device).eval()

    # ------------------------------------------------------------------------------------------------ steps

    def steps(self, flag: StopFlag) -> Iterator[StepLog]:
        """Yield a StepLog after every step, to the budget's end or a stop."""
        main, train = self.accelerator.is_main_process, self.recipe.train
        metrics = Metrics(self.run / "metrics.jsonl", self.accelerator, train.trackers, after_step=self.step)
        if main:
            checkpoint.tidy(self.run, step=self.step)
            write_text(self.run / "config.yaml", to_yaml(self.recipe))
            write_text(self.run / "env.json", json.dumps(environment() | {"precision": self.precision}, indent=1))
        last = time.perf_counter()
        saved_at, saved_images, seconds_done = self.seconds, self.images, self.seconds
        budget = self._budget(seconds_done)
        if budget >= 1:  # killed between the last checkpoint and the model
            self._save_model()
            if main:
                self._finish()
            metrics.close()
            yield StepLog(self.step, self.images, self.seconds, 1.0, notices=self._take_notices(), finished=True)
        while budget < 1:
            ids, bins, norm = self._train_step(budget)
            now = time.perf_counter()
            seconds_done, last = seconds_done + now - last, now
            loss = bins[0].sum() / train.batch
            finite = math.isfinite(float(loss)) and math.isfinite(norm)
            stop, bad, self.seconds = agree([float(flag.signal is not None), float(not finite), seconds_done], self._cpu_device())
            if bad:
                metrics.close()
                raise NumericalError(self._not_finite(loss, norm, ids))
            self._apply(budget)
            before, budget = budget, self._budget(self.seconds)
            self.window.add(bins, norm, train.batch)
            numbers: dict[str, Any] = {}
            finished = budget >= 1
            if finished or self.images // train.log_images > (self.images - train.batch) // train.log_images:
                numbers = self._numbers(self.window, before, budget)
                self.window = Window()
            self._milestones(before, budget, numbers)
            if numbers:
                metrics.write(numbers)
            due = (train.checkpoint_seconds and self.seconds - saved_at >= train.checkpoint_seconds) or (
                train.checkpoint_images and self.images - saved_images >= train.checkpoint_images
            )
            if stop or due or finished:
                self._save()
                saved_at, saved_images = self.seconds, self.images
            if finished and main:
                self._finish()
            stopped = (flag.signal or "signal to another process") if stop and not finished else None
            log = StepLog(
                self.step,
                self.images,
                self.seconds,
                min(budget, 1.0),
                numbers,
                tuple(ids.tolist()),
                self._take_notices(),
                finished,
                stopped,
            )
            if finished or stopped:
                metrics.close()
                self.accelerator.wait_for_everyone()
            yield log
            if stopped:
                return

    def _train_step(self, budget: float) -> tuple[np.ndarray, Tensor, float]:
        """Run forward and backward for this process's part of the batch; return (ids, per-bin loss sums and counts, grad norm)."""
        train = self.recipe.train
        share = train.batch // self.world
        first = self.images + self.rank * share
        ids = self.order[range(first, first + share)]
        portion = share // train.accumulate
        bins = torch.zeros(2, NUM_BINS, dtype=torch.float64)
        device = self.accelerator.device
        torch.manual_seed(hash((train.seed, self.step, self.rank)) % 2**63)  # dropout: a function of the step alone
        self.optimizer.zero_grad(set_to_none=True)
        for k in range(train.accumulate):
            rows = slice(k * portion, (k + 1) * portion)
            positions = range(first + rows.start, first + rows.stop)
            x0, eps, u, captions = collate(self.store, self.model.codec, train, ids[rows], positions, self.model.latent_shape)
            t = self.recipe.times.draw(u, budget=budget).to(device)
            synced = k == train.accumulate - 1
            with self._maybe_no_sync(synced), autocast(device, self.precision):
                losses = self.wrapped(x0.to(device), eps.to(device), t, captions)
                (losses.mean() / train.accumulate).backward()
            index = (t.cpu() * NUM_BINS).long().clamp(0, NUM_BINS - 1)
            bins[0].index_add_(0, index, losses.detach().double().cpu())
            bins[1].index_add_(0, index, torch.ones(len(index), dtype=torch.float64))
        average(bins)
        norm = sharding.number(torch.nn.utils.clip_grad_norm_(self.parameters, train.clip))
        return ids, bins, norm

    def _maybe_no_sync(self, synced: bool) -> Any:
        if self.sharded:
            self.learner.set_requires_gradient_sync(synced)  # type: ignore[operator]
        return contextlib.nullcontext() if synced or self.world == 1 or self.sharded else self.wrapped.no_sync()  # type: ignore[operator]

    def _apply(self, budget: float) -> None:
        """Take the optimizer's step and let the averages follow."""
        factor = learning_rate(self.recipe.train, self.step, budget)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        self.optimizer.step()
        self.step += 1
        self.images += self.recipe.train.batch
        for ema in self.averages:
            ema.update(self.parameters, self.step)

    def _budget(self, seconds: float) -> float:
        train = self.recipe.train
        return self.images / train.images if train.images else seconds / (train.seconds or math.inf)

    def _cpu_device(self) -> torch.device:
        return self.accelerator.device

    def _not_finite(self, loss: Tensor, norm: float, ids: np.ndarray) -> str:
        shown = ", ".join(map(str, ids[:16].tolist()))
        return (
            f"the loss ({float(loss):.4g}) or gradient norm ({norm:.4g}) is not finite at step {self.step + 1}.\n"
            f"Images of this step (process {self.rank}): {shown}{', ...' if len(ids) > 16 else ''}\n"
            f"No step was taken and nothing was saved over the last checkpoint. Lower train.lr or train.clip, or look at these images."
        )

    def _take_notices(self) -> tuple[str, ...]:
        taken, self.notices = tuple(self.notices), []
        return taken

    # ------------------------------------------------------------------------------------------------ looking and keeping

    def _numbers(self, window: Window, before: float, budget: float) -> dict[str, Any]:
        """Return one line of metrics."""
        train = self.recipe.train
        return {
            "step": self.step,
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "budget": round(min(budget, 1.0), 6),
            **window.numbers(),
            **{key: round(value, 3) for key, value in usage().items()},
            "learning_rate": train.lr * learning_rate(train, self.step - 1, before),
        }

    def _milestones(self, before: float, budget: float, numbers: dict[str, Any]) -> None:
        """At evenly doubling shares of the budget: a picture of progress, the held-out loss, a snapshot of the averages."""
        train = self.recipe.train
        previews = {2.0**-k for k in range(train.previews)}
        snapshots = {(k + 1) / train.snapshots for k in range(train.snapshots)}
        look = any(before < share <= budget for share in previews)
        keep = any(before < share <= budget for share in snapshots)
        if not (look or keep):
            return
        averages = self._whole_averages()  # all processes
        if not self.accelerator.is_main_process:
            return
        if keep:
            checkpoint.save_snapshot(self.run, self.step, averages)
        if look:
            shadow = self._averaged(averages)
            numbers.setdefault("step", self.step)
            numbers.setdefault("images", self.images)
            numbers |= self._heldout(shadow)
            write_preview(shadow, self.recipe.sample, self.store, self.run / "samples" / f"step-{self.step:08d}.png")

    def _whole_averages(self) -> dict[str, dict[str, Tensor]]:
        """Return file stem -> name -> whole tensor of the averages; all processes call it together."""
        return {ema.name: sharding.gather(ema.state_dict()) for ema in self.averages}

    def _averaged(self, averages: dict[str, dict[str, Tensor]]) -> Model:
        """Return a model with the averaged weights of width `train.model_ema`."""
        average = averages[PowerEMA({}, self.recipe.train.model_ema).name]
        self.shadow.load_state_dict(self.shadow.state_dict() | average)
        config = model_config(self.recipe, self.store)
        return Model(config, self.shadow.text, self.shadow.network, precision=self.precision)

    def _heldout(self, model: Model) -> dict[str, Any]:
        """Return the loss of v on fixed (image, noise, time) triples that training never sees, whole and by time."""
        train = self.recipe.train
        ids = self.store.split("judge")
        ids = ids[:: max(1, len(ids) // train.heldout)][: train.heldout] if train.heldout else ids[:0]
        if not len(ids):
            return {}
        plain = train.model_copy(update={"flip": False, "shift": 0, "drop": 0.0, "seed": 2**40})
        x0, eps, _, captions = collate(self.store, self.model.codec, plain, ids, range(len(ids)), self.model.latent_shape)
        t = (torch.arange(len(ids)) + 0.5) / len(ids) * (self.recipe.times.t_max - 0.02) + 0.01
        device = self.accelerator.device
        with autocast(device, self.precision):
            losses = self.shadow.heldout(x0.to(device), eps.to(device), t.to(device), captions).cpu()
        bins = [float(part.mean()) if len(part) else None for part in losses.tensor_split(NUM_BINS)]
        return {"heldout_loss": float(losses.mean()), "heldout_bins": bins}

    def _save(self) -> None:
        """Publish a checkpoint and the model folder: all processes gather, the main one writes."""
        averages = self._whole_averages()
        learner = sharding.gather(self.named)
        optimizer = sharding.gather(checkpoint.optimizer_tensors(self.optimizer, list(self.named)))
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "images": self.images,
                "seconds": self.seconds,
                "precision": self.precision,
                "window": self.window.state(),
            }
            tensors = averages | {"learner": learner, "optimizer": optimizer}
            checkpoint.save(self.run, self.step, tensors, state, keep=self.recipe.train.keep)
            self._write_model(averages)

    def _save_model(self) -> None:
        """Publish the model folder alone: all processes gather, the main one writes."""
        averages = self._whole_averages()
        if self.accelerator.is_main_process:
            self._write_model(averages)

    def _write_model(self, averages: dict[str, dict[str, Tensor]]) -> None:
        self._with_provenance(self._averaged(averages)).save(self.run / "model")

    def _with_provenance(self, model: Model) -> Model:
        train = self.recipe.train
        facts = {
            "recipe": self.recipe.name,
            "data": self.store.fingerprint,
            "step": self.step,
            "images": self.images,
            "seconds": round(self.seconds, 2),
            "ema": train.model_ema,
            "precision": self.precision,
            "processes": self.world,
            "seed": train.seed,
        } | environment()
        model.config = model.config.model_copy(update={"provenance": facts})
        return model

    def _finish(self) -> None:
        digest = json.loads((self.run / "model" / "model.json").read_text(encoding="utf-8"))["weights_sha256"]
        facts = {"step": self.step, "images": self.images, "seconds": round(self.seconds, 2), "model": digest}
        write_text(self.run / "finished.json", json.dumps(facts, indent=1))


def _bad_files(store: Store) -> list[str]:
    """Return a sentence about the files that were left out, the first few by name."""
    if not store.bad:
        return []
    shown = "; ".join(f"{bad.path}: {bad.reason}" for bad in store.bad[:3])
    return [f"{len(store.bad)} bad files are left out ({shown}{'; ...' if len(store.bad) > 3 else ''}). All: limner data check"]


class Window:
    """Sums between two lines of metrics."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.bins = torch.zeros(2, NUM_BINS, dtype=torch.float64)
        self.norm, self.steps, self.images = 0.0, 0, 0

    def add(self, bins: Tensor, norm: float, images: int) -> None:
        """Take in one step."""
        self.bins += bins
        self.norm += norm
        self.steps += 1
        self.images += images

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON, for a checkpoint between two lines."""
        return {
            "bins": self.bins.tolist(),
            "norm": self.norm,
            "steps": self.steps,
            "images": self.images,
            "seconds": time.perf_counter() - self.start,
        }

    @staticmethod
    def of(state: dict[str, Any] | None) -> Window:
        """Return the window that `state` described."""
        window = Window()
        if state:
            window.bins = torch.tensor(state["bins"], dtype=torch.float64)
            window.norm, window.steps, window.images = state["norm"], state["steps"], state["images"]
            window.start -= state["seconds"]
        return window

    def numbers(self) -> dict[str, Any]:
        """Return loss, loss by time, gradient norm and speed since the last line."""
        sums, counts = self.bins
        return {
            "loss": float(sums.sum() / counts.sum()),
            "loss_bins": [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)],
            "grad_norm": self.norm / self.steps,
            "images_per_second": self.images / (time.perf_counter() - self.start),
        }


def model_config(recipe: Recipe, store: Store) -> ModelConfig:
    """Return the config of the model that a recipe trains on a store."""
    labels = {caption: label for label in range(len(store.class_names)) for caption in store.class_captions(label)}
    labels |= {name: label for label, name in enumerate(store.class_names) if name not in labels}
    examples = store.all_captions()
    return ModelConfig(
        channels=store.images.shape[1],
        size=(store.images.shape[2], store.images.shape[3]),
        codec=recipe.codec,
        text=recipe.text,
        network=recipe.network,
        process=recipe.process,
        target=recipe.target,
        t_max=recipe.times.t_max,
        sample=recipe.sample,
        class_names=store.class_names,
        labels=labels if len(labels) <= 20_000 else {},
        captions=tuple(examples[:: max(1, len(examples) // 24)][:24]),
    )


def build_model(recipe: Recipe, store: Store, *, text: Any = None) -> Model:
    """Return the untrained model of a recipe; with `text`, a fresh text encoder that shares that one's tokenizer."""
    config = model_config(recipe, store)
    encoder = copy.deepcopy(text) if text is not None else recipe.text.build(store.all_captions(), config.labels)
    return assemble(config, encoder)
