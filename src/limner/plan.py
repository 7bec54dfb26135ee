"""What a recipe takes, before anything runs: parameters, FLOPs, memory a device, hours and cost.

The network is built on torch's meta device, which has shapes but no numbers, so that even an absurd recipe is measured
at once and allocates nothing; data are never opened. FLOPs are those of matrix products, convolutions and
attention (a multiply-add is 2), activations are the bytes that autograd keeps for the backward pass.
`refuse_if_too_large` stops what cannot fit before it starts.
Next: `training/loop.py`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from limner.data.captions import class_values, render
from limner.errors import ConfigError, LimnerError, nearest
from limner.recipe import Recipe
from limner.samplers import SAMPLERS
from limner.types import Conditioning

GIB = 2**30
PROGRAM = 0.45 * GIB  # Python, torch and a data page cache's worth, before any weight: an estimate


@dataclass(frozen=True)
class Device:
    """What one device can do.

    Arguments:
        peak: dense bf16 FLOP/s of its data sheet; None where it has to be measured.
        share: of the peak that training reaches; an assumption, see `SHARE_SOURCE`.
        memory: GiB. price: US dollars an hour on demand, or None where no source was found.
    """

    peak: float | None
    share: float
    memory: float | None
    price: float | None


SHARE_SOURCE = "30 % of the peak is an assumption; small networks reach less, and launching their kernels bounds them"
PRICE_SOURCE = "on-demand, middle of specialised clouds, mercatus-ai.com/blog/cloud-gpu-pricing, May 2026; they halve and double"
PEAK_SOURCE = "dense bf16 (fp16 where there is no bf16) of NVIDIA's data sheets"
LAUNCH_SECONDS = 6e-6  # of one kernel from Python; an assumption

DEVICES: dict[str, Device] = {
    "cpu": Device(None, 1.0, None, None),
    "v100": Device(125e12, 0.3, 32, None),
    "t4": Device(65e12, 0.3, 16, None),
    "a10": Device(125e12, 0.3, 24, None),
    "l4": Device(121e12, 0.3, 24, None),
    "l40s": Device(362e12, 0.3, 48, None),
    "rtx3090": Device(71e12, 0.3, 24, None),
    "rtx4090": Device(165e12, 0.3, 24, None),
    "a100-40": Device(312e12, 0.3, 40, None),
    "a100": Device(312e12, 0.3, 80, 1.30),
    "h100": Device(989e12, 0.3, 80, 3.00),
    "h200": Device(989e12, 0.3, 141, 4.00),
}


@dataclass(frozen=True)
class Plan:
    """What a recipe takes on `devices` times `device`. Bytes and FLOPs are exact for the shapes; hours are estimates.

    Arguments:
        image, latent: [C, H, W] of pixels and latents.
        text_parameters, network_parameters: numbers, trainable or not.
        flops_forward, flops_training: of one image, text encoder included (every caption different: an upper bound).
        activations: bytes kept for the backward pass of one image, in fp32.
        fixed: bytes kept whatever the batch.
        state: name -> bytes of weights, gradients, Adam's moments, averages and so on of one process.
        batch: images of one process at once. replicated, sharded: bytes a device without and with a sharded state.
        memory: bytes of one device, or None where it is not known.
        seconds, images, rate: of the budget; images/s of all devices; None where not known.
        cost: US dollars or None. timed: the rate was measured here and now. launch_bound: kernel launches bound it.
        evaluations: most network evaluations of one sampled image.
        notes: what was assumed.
    """

    recipe: str
    device: str
    devices: int
    image: tuple[int, int, int]
    latent: tuple[int, int, int]
    text_parameters: int
    network_parameters: int
    flops_forward: float
    flops_training: float
    activations: int
    fixed: int
    state: dict[str, int]
    batch: int
    replicated: int
    sharded: int
    memory: int | None
    seconds: float | None
    images: float | None
    rate: float | None
    cost: float | None
    timed: bool
    launch_bound: bool
    evaluations: int
    notes: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------- the plan


def plan(
    recipe: Recipe,
    *,
    devices: int = 1,
    device: str = "cpu",
    shape: tuple[int, int, int] | None = None,
    timed: bool = True,
) -> Plan:
    """Return what a recipe takes, from the recipe alone.

    Arguments:
        devices: how many. device: a name in `DEVICES`.
        shape: [C, H, W] of the pixels, for data that do not state it.
        timed: on `cpu`, time two small training steps here where that takes no more than a second or two.
    Raises: ConfigError for an unknown device, or a recipe whose parts do not fit together.
    """
    if device not in DEVICES:
        raise ConfigError(f"device: there is no {device!r}.{nearest(device, DEVICES)} Allowed: {', '.join(DEVICES)}.")
    if devices < 1:
        raise ConfigError(f"devices: at least 1, not {devices}.")
    train, known = recipe.train, DEVICES[device]
    notes: list[str] = []
    parts = _parts(recipe, shape, notes)
    state = state_bytes(recipe, parts, world=devices)
    cost = _trace(recipe, parts, flops=True)
    batch = -(-train.batch // (devices * train.accumulate))
    activations = cost.fixed + cost.each * batch
    replicated = sum(state.values()) + activations
    split = sum(size for name, size in state.items() if name != "communication")
    sharded = -(-split // devices) + state.get("communication", 0) + activations
    rate, launch_bound = _rate(known, devices, cost, batch, train.accumulate)
    was_timed = False
    if device == "cpu":
        replicated, sharded = replicated + int(PROGRAM), sharded + int(PROGRAM)
        notes.append(f"memory on a CPU includes {PROGRAM / GIB:.2g} GiB of the program itself")
        if timed and devices == 1 and cost.training * 32 < 2e10 and parts.text is not None:
            rate, was_timed = _timed_rate(recipe, parts), True
    else:
        notes += [SHARE_SOURCE, f"peak: {PEAK_SOURCE}"]
        if known.price is not None:
            notes.append(f"price: {PRICE_SOURCE}")
    seconds = train.seconds if train.seconds else (train.images or 0) / rate if rate else None
    images = float(train.images) if train.images else rate * (train.seconds or 0) if rate else None
    memory = memory_available() if device == "cpu" else int((known.memory or 0) * GIB) or None
    sampler = SAMPLERS.get(recipe.sample.sampler)
    doubled = 1 if recipe.sample.guidance in (0, 1) else 2
    return Plan(
        recipe=recipe.name,
        device=device,
        devices=devices,
        image=parts.image,
        latent=parts.latent,
        text_parameters=_numel(parts.text),
        network_parameters=_numel(parts.network),
        flops_forward=cost.forward,
        flops_training=cost.training,
        activations=cost.each,
        fixed=cost.fixed,
        state=state,
        batch=batch,
        replicated=replicated,
        sharded=sharded,
        memory=memory,
        seconds=seconds,
        images=images,
        rate=rate,
        cost=None if seconds is None or known.price is None else seconds / 3600 * known.price * devices,
        timed=was_timed,
        launch_bound=launch_bound,
        evaluations=doubled * (sampler.evaluations(recipe.sample.steps) if sampler else recipe.sample.steps),
        notes=tuple(notes),
    )


def describe(plan: Plan) -> str:
    """Return a plan as the lines that `limner plan` prints."""
    budget = "unknown on this device" if plan.seconds is None else _duration(plan.seconds)
    if plan.images is not None:
        budget += f" for {plan.images:,.0f} images"
    how = "timed here just now" if plan.timed else "bounded by kernel launches" if plan.launch_bound else "estimated"
    rate = "unknown until it is timed on the device" if plan.rate is None else f"{plan.rate:,.0f} images/s, {how}"
    fits = "" if plan.memory is None else f"of {_bytes(plan.memory)} " + ("available" if plan.device == "cpu" else "a device")
    state = ", ".join(f"{name} {_bytes(size)}" for name, size in plan.state.items())
    lines = [
        f"plan of recipe {plan.recipe} on {plan.devices} x {plan.device}",
        f"  images       {_shape(plan.image)} pixels, {_shape(plan.latent)} latents",
        f"  parameters   {plan.network_parameters:,} network + {plan.text_parameters:,} text "
        f"= {plan.network_parameters + plan.text_parameters:,}",
        f"  FLOPs        {_flops(plan.flops_forward)} an image forward, {_flops(plan.flops_training)} in training; "
        f"{_flops(plan.flops_forward * plan.evaluations)} a sampled image (at most {plan.evaluations} evaluations)",
        f"  state        {state}",
        f"  activations  {_bytes(plan.activations)} an image in fp32, {plan.batch} images a device at once",
        f"  memory       {_bytes(plan.replicated)} a device {fits}{_verdict(plan.replicated, plan.memory)}",
    ]
    if plan.devices > 1:
        lines.append(f"  sharded      {_bytes(plan.sharded)} a device with a sharded state{_verdict(plan.sharded, plan.memory)}")
    lines += [f"  speed        {rate}", f"  time         {budget}"]
    if plan.cost is not None:
        lines.append(f"  cost         ${plan.cost:,.2f} at ${DEVICES[plan.device].price:.2f} a device and hour")
    elif plan.device != "cpu":
        lines.append("  cost         unknown: no dated price of this device at hand")
    return "\n".join(lines + [f"  note         {note}" for note in plan.notes])


def refuse_if_too_large(
    recipe: Recipe, *, world: int = 1, shape: tuple[int, int, int] | None = None, available: int | None = None
) -> None:
    """Raise ConfigError when one process's state and activations exceed the memory it can have. Nothing is allocated.

    What is counted is a lower bound of what training takes, so that nothing that fits is refused.

    Arguments:
        world: processes that share the batch (and, on a CPU, this machine's memory).
        shape: [C, H, W] of the pixels once the data are open; without it and without `data.size`, 28x28 is assumed.
        available: bytes; default what this process could still get here.
    """
    train = recipe.train
    if available is None:
        available = memory_available()
        if not torch.cuda.is_available():
            available //= max(1, world)
    parts = _parts(recipe, shape, [])
    state = sum(state_bytes(recipe, parts, world=world).values())
    where = f"{_bytes(available)} of memory are available" + (f" to each of {world} processes" if world > 1 else "")
    if state > available:
        raise ConfigError(
            f"network: too large for this machine: weights, gradients, Adam's moments and averages of "
            f"{_numel(parts.network) + _numel(parts.text):,} parameters take {_bytes(state)}, and {where}.\n"
            f"Make network.{_largest(recipe)} smaller, or train on a larger device (see: limner plan)."
        )
    cost = _trace(recipe, parts, flops=False)
    batch = -(-train.batch // (world * train.accumulate))
    needed = state + cost.fixed + cost.each * batch
    if needed > available:
        fits = max(0, int((available - state - cost.fixed) // max(1, cost.each)))
        advice = "Not even one image fits: choose a smaller data.size or network."
        if fits:
            portions = -(-train.batch // (fits * world))
            most = fits * world * train.accumulate
            advice = f"Set train.batch to at most {most}, or train.accumulate to at least {portions}."
        raise ConfigError(
            f"train.batch: {batch:,} images at once take {_bytes(needed)} ({_bytes(cost.each)} an image besides "
            f"{_bytes(state)} of state), and {where}.\n{advice}"
        )


def memory_available() -> int:
    """Return the bytes this process could still take: of the GPU, or else of the machine or control group."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return min([int(psutil.virtual_memory().available), *_cgroup_room()])


def state_bytes(recipe: Recipe, parts: Parts, *, world: int = 1) -> dict[str, int]:
    """Return name -> bytes of what one process of training keeps between steps, all in fp32."""
    numbers = _numel(parts.network) + _numel(parts.text)
    trained = _numel(parts.network, trained=True) + _numel(parts.text, trained=True)
    state = {
        "weights": 4 * numbers,
        "gradients": 4 * trained,
        "Adam": 8 * trained,
        f"{len(recipe.train.ema)} averages": 4 * trained * len(recipe.train.ema),
        "shadow copy": 4 * numbers,
    }
    if world > 1:
        state["communication"] = 4 * trained
    return state


# ------------------------------------------------------------------------------------------ shapes without numbers


@dataclass(frozen=True)
class Parts:
    """A recipe's modules on the meta device; `text` is None where it cannot be built without its files."""

    image: tuple[int, int, int]
    latent: tuple[int, int, int]
    captions: tuple[str, ...]
    text_width: int
    text: nn.Module | None
    network: nn.Module


@contextlib.contextmanager
def _on_meta() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def _parts(recipe: Recipe, shape: tuple[int, int, int] | None, notes: list[str]) -> Parts:
    """Return the recipe's modules on the meta device; notes gets what had to be assumed."""
    image = shape or getattr(recipe.data, "shape", None)
    if image is None:
        image = (getattr(recipe.data, "channels", 3), 28, 28)
        notes.append("the images' size is not in the recipe: 28x28 assumed (data.size states it)")
    channels, height, width = image
    latent = recipe.codec.latent_shape(channels, (height, width))
    captions, labels = _captions(recipe, notes)
    text: nn.Module | None = None
    text_width = int(getattr(recipe.text, "width", None) or 768)
    with _on_meta():
        try:
            text = recipe.text.build(list(captions), labels)
            text_width = int(text.width)  # type: ignore[arg-type]
        except ConfigError:
            raise
        except (LimnerError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
            first = (str(error).splitlines() or [""])[0][:90]
            notes.append(f"the text encoder is left out, a width of {text_width} assumed: {first}")
        network = recipe.network.build(channels=latent[0], size=(latent[1], latent[2]), text_width=text_width)
    network.to("meta")
    if text is not None:
        text.to("meta")
    return Parts(image, latent, captions, text_width, text, network)


def _captions(recipe: Recipe, notes: list[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return captions and caption -> label as the data would give them, as far as the recipe alone tells."""
    captions: dict[str, int] = {}
    try:
        names = recipe.data.class_names() or ()
        templates = recipe.data.wording() or (("a photo of a {word}",) if names else ())
        for label, name in enumerate(names):
            for caption in render(templates, class_values(names, label)):
                captions.setdefault(caption, label)
            captions.setdefault(name, label)
    except (LimnerError, OSError, AttributeError):
        captions = {}
    if captions:
        return tuple(captions), captions
    notes.append("captions are in the data, which are not opened: a vocabulary of 2,000 words in sentences of 12 assumed")
    words = [f"word{i}" for i in range(2000)]
    sentences = tuple(" ".join(words[i : i + 12]) for i in range(0, 2000, 12))
    return sentences, {sentence: label for label, sentence in enumerate(sentences)}


@dataclass(frozen=True)
class Cost:
    """FLOPs and saved bytes of one image, and what is independent of the batch; launches: kernels of a step."""

    forward: float
    training: float
    each: int
    fixed: int
    launches: int


class _Launches(TorchDispatchMode):
    """Counts operations that would start a kernel: those that are no view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not getattr(func, "is_view", False)
        return func(*args, **(kwargs or {}))


def _trace(recipe: Recipe, parts: Parts, *, flops: bool) -> Cost:
    """Run the network forward (with `flops`, backward too) for 2 and 4 images; half the difference is one image's."""
    found = [_traced(parts, count, flops) for count in (2, 4)]
    forward, training, saved = ((found[1][i] - found[0][i]) / 2 for i in range(3))
    return Cost(forward, training, int(saved), max(0, int(found[0][2] - 2 * saved)), int(found[0][3]))


def _traced(parts: Parts, count: int, flops: bool) -> tuple[float, float, float, int]:
    """Return (FLOPs forward, FLOPs of a training step, bytes saved, kernels launched) of `count` images."""
    modules = [module for module in (parts.network, parts.text) if module is not None]
    weights = {_storage(p) for module in modules for p in module.parameters()}
    kept: dict[int, Tensor] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor
        return tensor

    counter = FlopCounterMode(display=False)
    launches = _Launches()
    with _on_meta(), torch.enable_grad(), contextlib.ExitStack() as stack:
        if flops:
            stack.enter_context(launches)
            stack.enter_context(counter)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if parts.text is not None:
                conditioning = parts.text.encode([parts.captions[i % len(parts.captions)] for i in range(count)])  # type: ignore[operator]
            else:
                tokens = torch.empty(count, 77, parts.text_width)
                conditioning = Conditioning(tokens, torch.ones(count, 77, dtype=torch.bool), tokens[:, 0])
            y = parts.network(torch.empty(count, *parts.latent), torch.empty(count), conditioning)
            loss = (y.float() - torch.empty(y.shape)).square().mean()
        forward = counter.get_total_flops() if flops else 0
        if flops:
            loss.backward()
    for module in modules:
        module.zero_grad(set_to_none=True)
    sizes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return float(forward), float(counter.get_total_flops() if flops else 0), float(sizes), launches.count


# ---------------------------------------------------------------------------------------------------- speed


def _rate(device: Device, devices: int, cost: Cost, batch: int, accumulate: int) -> tuple[float | None, bool]:
    """Return (images/s of all devices, whether launching kernels is what takes the time), or (None, False)."""
    if device.peak is None:
        return None, False
    computing = batch * cost.training / (device.peak * device.share)
    launching = cost.launches * LAUNCH_SECONDS
    return devices * batch / max(computing, launching), launching > computing


def _timed_rate(recipe: Recipe, parts: Parts) -> float:
    """Return images/s of small training steps of this network here: the better of two, fp32, text encoder included."""
    count = min(recipe.train.batch, 32)
    with torch.random.fork_rng(devices=[]):
        text = recipe.text.build(list(parts.captions), {caption: i for i, caption in enumerate(parts.captions)})
        network = recipe.network.build(channels=parts.latent[0], size=parts.latent[1:], text_width=text.width)
    captions = [parts.captions[i % len(parts.captions)] for i in range(count)]
    x = torch.zeros(count, *parts.latent)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        network(x, torch.full((count,), 0.5), text.encode(captions)).square().mean().backward()
        best = min(best, time.perf_counter() - start)
    return count / best


# ---------------------------------------------------------------------------------------------------- small things


def _numel(module: nn.Module | None, *, trained: bool = False) -> int:
    """Return how many numbers a module's parameters have."""
    return 0 if module is None else sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def _storage(tensor: Tensor) -> int:
    """Return what tells one tensor's memory from another's, also where there is none."""
    return int(tensor.untyped_storage()._cdata)


def _cgroup_room() -> list[int]:
    """Return what is left of the memory limits of this process's control groups (version 2), such as a Slurm job's."""
    room = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        folder = Path("/sys/fs/cgroup") / next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")
        for group in (folder, *folder.parents):
            if (group / "memory.max").is_file():
                limit = (group / "memory.max").read_text(encoding="utf-8").strip()
                used = int((group / "memory.current").read_text(encoding="utf-8"))
                if limit.isdecimal():
                    room.append(max(0, int(limit) - used))
    except (OSError, StopIteration, ValueError):
        pass
    return room


def _largest(recipe: Recipe) -> str:
    """Return the network's key that most likely made it large, for a message."""
    return next((name for name in ("widths", "width", "depth") if name in type(recipe.network).model_fields), "size")


def _bytes(size: float) -> str:
    for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            value = size / scale
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{size:.0f} B"


def _flops(flops: float) -> str:
    for unit, scale in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if flops >= scale:
            return f"{flops / scale:.3g} {unit}"
    return f"{flops:.3g} FLOP"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _shape(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[2]}x{shape[0]}"


def _verdict(needed: int, memory: int | None) -> str:
    if memory is None:
        return ""
    return ": fits" if needed <= memory else ": DOES NOT FIT"
