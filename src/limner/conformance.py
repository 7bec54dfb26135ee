"""`limner check FILE.py:NAME`: the checks that our own parts pass, run on yours.

What NAME is decides the family: a subclass (or an object) of Process, Target, Times, NetworkConfig, TextConfig, Codec,
Source or Guidance; a Sampler; or a function, by its arguments. Each family is a table of (what should hold, check); a
check returns what it found or raises. All of them run, so that one report names everything that is wrong.
Next: `recipe.py`, where a part of one's own is used.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import tempfile
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from limner.codecs import Codec
from limner.config import Config, load_own, own_code, validate
from limner.data.source import Source
from limner.errors import ConfigError, LimnerError, PromptError, shorten
from limner.guidance import Guidance
from limner.networks import NetworkConfig
from limner.process import PROCESSES as KINDS
from limner.process import Process, Target, Times
from limner.process.schedules import expand
from limner.samplers import Sampler
from limner.text import TextConfig
from limner.types import Conditioning, Denoise, Step

Check = Callable[[], str | None]
Checks = list[tuple[str, Check]]
PROCESSES: tuple[Any, ...] = tuple(KINDS.parse(kind) for kind in ("rectified-flow", "cosine", "linear-beta"))
MOST_LINES = 9


class CheckError(Exception):
    """What a check raises: why the part does not conform."""


def check(spec: str) -> list[str]:
    """Return a line `ok ...` for each check that `FILE.py:NAME` passes.

    Raises: ConfigError listing what fails, or saying that NAME belongs to no family.
    """
    path, sign, name = spec.rpartition(":")
    if not sign or not path or not name:
        raise ConfigError(f"check: {shorten(spec)}: write FILE.py:NAME, such as my_schedule.py:Mine.")
    family, checks = checks_for(load_own(spec), spec)
    lines, failures = [], []
    for what, run in checks:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found = run()
            lines.append(f"ok    {family}: {what}" + (f" ({found})" if found else ""))
        except CheckError as why:
            failures.append(f"fails: {what}: {why}")
        except Exception as error:  # noqa: BLE001 (someone else's code may fail in any way; it is told in one line)
            failures.append(f"fails: {what}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}")
    if failures:
        shown = failures[: MOST_LINES - 1]
        more = [f"... and {len(failures) - len(shown)} more."] if len(failures) > len(shown) else []
        head = f"{spec} is a {family} that fails {len(failures)} of {len(checks)} checks:"
        raise ConfigError("\n".join([head, *shown, *more]))
    return lines


def checks_for(thing: Any, spec: str) -> tuple[str, Checks]:
    """Return the family of a thing and its checks. Raises: ConfigError when it belongs to none."""
    for base, family, make in FAMILIES:
        if isinstance(thing, base):
            return family, make(thing)
        if isinstance(thing, type) and issubclass(thing, base) and thing is not base and issubclass(thing, Config):
            if "kind" not in thing.model_fields:
                raise ConfigError(f"{spec}: give the class a field `kind: str`.")
            try:
                with own_code():
                    made = validate(thing, {"kind": spec}, where=spec)
            except ConfigError as error:
                raise ConfigError(
                    f"{error}\nA recipe writes `kind: {spec}`: annotate the field as `kind: str`, and give every "
                    f"other field a default, or check an object of the class instead."
                ) from error
            return family, [("is its config", functools.partial(_is_its_config, made)), *make(made)]
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        raise ConfigError(f"{spec} is a module. Check the NetworkConfig (or TextConfig) whose `build` returns it.")
    if callable(thing):
        names = list(inspect.signature(thing).parameters)
        if {"cond", "scale"} <= set(names):
            return "guidance", guidance_checks(_GuidanceFunction(thing))
        if len(names) >= 4 and names[:2] == ["denoise", "x"]:
            return "sampler", sampler_checks(Sampler(thing, order=1, stochastic="noise" in _required(thing)))
    families = ", ".join(base.__name__ for base, _, _ in FAMILIES)
    raise ConfigError(
        f"{spec} belongs to no family: expected a subclass or object of {families}; a sampler function "
        f"(denoise, x, times, process, *, noise=None); or a guidance function (denoise, cond, null, *, scale)."
    )


def _is_its_config(made: Config) -> None:
    with own_code():
        again = validate(type(made), json.loads(json.dumps(made.model_dump(mode="json"))))
    _need(again == made, "its config, written as JSON and read back, describes another object")


# ---------------------------------------------------------------------------------------------------- process


def process_checks(process: Process) -> Checks:
    """Checks of alpha and sigma."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)

    def ends() -> None:
        zero = torch.zeros(1, dtype=torch.float64)
        alpha, sigma = float(process.alpha(zero)), float(process.sigma(zero))
        _need(abs(alpha - 1) < 1e-6, f"alpha(0) is {alpha:.6g}, not 1: t = 0 has to be the data")
        _need(abs(sigma) < 1e-6, f"sigma(0) is {sigma:.6g}, not 0: t = 0 has to be the data")

    def finite() -> None:
        for name, values in (("alpha", process.alpha(t)), ("sigma", process.sigma(t))):
            _need(bool(values.isfinite().all()), f"{name} is not finite at t = {_first(t, ~values.isfinite())}")
            _need(bool((values >= 0).all()), f"{name} is negative at t = {_first(t, values < 0)}")

    def monotone() -> None:
        alpha, sigma = process.alpha(t), process.sigma(t)
        falls = alpha[:-1] * sigma[1:] > alpha[1:] * sigma[:-1]
        _need(bool(falls.all()), f"alpha/sigma does not fall at t = {_first(t[1:], ~falls)}")

    def noise() -> str:
        one = torch.ones(1, dtype=torch.float64)
        ratio = float(process.alpha(one) / process.sigma(one))
        _need(ratio < 0.15, f"alpha/sigma is still {ratio:.3g} at t = 1: sampling starts from pure noise there")
        return f"alpha/sigma = {ratio:.2g}"

    def shapes() -> None:
        for dtype in (torch.float32, torch.float64):
            for shape in ((), (5,), (2, 3)):
                for name, function in (("alpha", process.alpha), ("sigma", process.sigma)):
                    value = function(torch.full(shape, 0.3, dtype=dtype))
                    _need(value.shape == shape, f"{name} of t {list(shape)} has shape {list(value.shape)}")
                    _need(value.dtype == dtype, f"{name} of {dtype} is {value.dtype}")

    def elementwise() -> None:
        for function in (process.alpha, process.sigma):
            alone = torch.cat([function(t[i : i + 1]) for i in range(0, 1001, 100)])
            _close(function(t)[::100], alone, 1e-12, "a time's value changes with the other times of the batch")

    def single() -> None:
        for name, function in (("alpha", process.alpha), ("sigma", process.sigma)):
            _close(function(t.float()).double(), function(t.float().double()), 1e-4, f"{name} in single precision")

    def formula() -> None:
        x0, eps, some = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0.0, 0.4, 0.9])
        wanted = expand(process.alpha(some), x0) * x0 + expand(process.sigma(some), x0) * eps
        _close(process.add_noise(x0, eps, some), wanted, 1e-5, "add_noise is not alpha·x0 + sigma·eps")

    def samples() -> str:
        times = torch.linspace(1, 0, 129, dtype=torch.float64)
        x = _data()[0] * float(process.alpha(times[:1])) + _data()[1] * float(process.sigma(times[:1]))
        from limner.samplers import SAMPLERS

        found = _last(SAMPLERS["ab2"](_gaussian(process), x, times, process)).x
        error = max(abs(float(found.mean()) - _MEAN), abs(float(found.std()) - _SPREAD))
        _need(error < 0.05, f"sampling Gaussian data of mean {_MEAN} and spread {_SPREAD} is {error:.3g} off")
        return f"mean and spread within {error:.1g}"

    return [
        ("alpha(0) = 1 and sigma(0) = 0", ends),
        ("alpha and sigma are finite and not negative", finite),
        ("SNR falls strictly", monotone),
        ("t = 1 is noise", noise),
        ("dtype and shape are kept", shapes),
        ("each time by itself", elementwise),
        ("single precision agrees with double", single),
        ("add_noise follows the formula", formula),
        ("sampling it finds the data", samples),
    ]


# ---------------------------------------------------------------------------------------------------- target


def target_checks(target: Target) -> Checks:
    """Checks of the pair (a, b) under several processes."""
    t = torch.linspace(0, 0.995, 200, dtype=torch.float64)[1:]

    def shapes() -> None:
        for dtype in (torch.float32, torch.float64):
            some = torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
            for name, value in (("a", target.a(PROCESSES[0], some)), ("b", target.b(PROCESSES[0], some))):
                _need(value.shape == some.shape and value.dtype == dtype, f"{name} is {value.dtype} {list(value.shape)}")

    def finite(process: Process) -> None:
        for name, value in (("a", target.a(process, t)), ("b", target.b(process, t))):
            _need(bool(value.isfinite().all()), f"{name} is not finite at t = {_first(t, ~value.isfinite())}")

    def solvable(process: Process) -> str | None:
        det = target.det(process, t)
        bad = ~(det.abs() > 1e-6)
        _need(
            not bool(bad.any()),
            f"det = alpha·b - sigma·a vanishes at t = {_first(t, bad)}: x0 cannot be told from y there",
        )
        try:
            target.check(process)
        except ConfigError:
            return "ill-posed at t = 1 only: recipes need times.t_max below 1"
        return None

    def round_trip(process: Process) -> None:
        x0, eps = torch.randn(199, 1, 2, 2, dtype=torch.float64), torch.randn(199, 1, 2, 2, dtype=torch.float64)
        x_t, y = process.add_noise(x0, eps, t), target.of(process, x0, eps, t)
        _close(target.x0(process, x_t, y, t), x0, 1e-5, "x0 from the target is not the x0 it was made of")
        _close(target.eps(process, x_t, y, t), eps, 1e-5, "eps from the target is not the eps it was made of")

    checks: Checks = [("dtype and shape are kept", shapes)]
    for process in PROCESSES:
        under = f"under {process.kind}"
        checks += [
            (f"a and b are finite {under}", functools.partial(finite, process)),
            (f"det is not zero {under}", functools.partial(solvable, process)),
            (f"x0 and eps come back {under}", functools.partial(round_trip, process)),
        ]
    return checks


# ---------------------------------------------------------------------------------------------------- times


def times_checks(times: Times) -> Checks:
    """Checks of a distribution of training times."""
    u = (torch.arange(4096) + 0.5) / 4096

    def inside() -> None:
        for budget in (0.0, 0.5, 1.0):
            t = times.draw(torch.cat([torch.zeros(1), u]), budget=budget)
            _need(bool(t.isfinite().all()), f"a time is not finite at budget {budget:g}")
            low, high = float(t.min()), float(t.max())
            good = times.t_min - 1e-6 <= low and high <= times.t_max + 1e-6
            _need(good, f"times lie in [{low:.4g}, {high:.4g}], outside [{times.t_min:g}, {times.t_max:g}]")

    def rising() -> None:
        for budget in (0.0, 1.0):
            t = times.draw(u, budget=budget)
            _need(bool((t[1:] >= t[:-1]).all()), "the quantile does not rise with u")
            _need(float(t.max() - t.min()) > 0.01, "all times are the same: the network would learn one noise level only")

    def shapes() -> None:
        for shape in ((4096,), (64, 64)):
            t = times.draw(u.reshape(shape))
            _need(t.shape == shape and t.dtype == u.dtype, f"u {list(shape)} gives {t.dtype} {list(t.shape)}")

    def pure() -> None:
        _close(times.draw(u), times.draw(u), 0, "the same u gives another time: randomness belongs to the images")
        _close(times.draw(u)[::64], times.draw(u[::64]), 1e-6, "a time changes with the other images of the batch")

    return [
        ("times lie in [t_min, t_max]", inside),
        ("the quantile rises", rising),
        ("dtype and shape are kept", shapes),
        ("a time is a function of u alone", pure),
    ]


# ---------------------------------------------------------------------------------------------------- network


def network_checks(config: NetworkConfig) -> Checks:
    """Checks of a network: shapes, what it depends on, gradients, saving."""
    width = 32

    @functools.cache
    def geometry() -> tuple[int, tuple[int, int]]:
        refused = ""
        for channels, side in ((1, 16), (3, 32), (1, 28), (4, 32), (3, 64)):
            try:
                config.build(channels=channels, size=(side, side), text_width=width)
            except ConfigError as error:
                refused = str(error).splitlines()[0]
                continue
            return channels, (side, side)
        raise CheckError(f"it fits none of 16, 28, 32 and 64 pixels: {refused}")

    def build() -> nn.Module:
        channels, size = geometry()
        return config.build(channels=channels, size=size, text_width=width)

    def inputs(count: int) -> tuple[Tensor, Tensor, Conditioning]:
        channels, size = geometry()
        tokens = torch.randn(count, 5, width)
        mask = torch.arange(5)[None] < torch.tensor([[3]]).expand(count, 1)
        t = torch.linspace(0.1, 0.9, count)
        return torch.randn(count, channels, *size), t, Conditioning(tokens, mask, tokens.mean(1))

    @functools.cache
    def trained() -> tuple[nn.Module, list[str], list[str]]:
        """A few steps toward a target that depends on time and captions; (network, without gradient, not finite)."""
        torch.manual_seed(0)
        network = build().train()
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
        unused: set[str] = set()
        wild: set[str] = set()
        x, t, conditioning = inputs(8)
        wanted = x * t.reshape(-1, 1, 1, 1) + conditioning.pooled.mean(1).reshape(-1, 1, 1, 1) * 4
        for _ in range(6):
            optimizer.zero_grad(set_to_none=True)
            (network(x, t, conditioning) - wanted).square().mean().backward()
            for name, parameter in network.named_parameters():
                if parameter.requires_grad and parameter.grad is None:
                    unused.add(name)
                elif parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                    wild.add(name)
            optimizer.step()
        return network.eval(), sorted(unused), sorted(wild)

    def shape() -> str:
        network = build().eval()
        for count in (1, 3):
            x, t, conditioning = inputs(count)
            with torch.no_grad():
                y = network(x, t, conditioning)
            _need(isinstance(y, Tensor), f"it answers a {type(y).__name__}, not a tensor")
            _need(y.shape == x.shape, f"x {list(x.shape)} gives y {list(y.shape)}")
            _need(bool(y.isfinite().all()), "its answer is not finite before any training")
        return f"{sum(p.numel() for p in network.parameters()):,} parameters at {geometry()[1][0]} pixels"

    def gradients() -> None:
        _, unused, wild = trained()
        _need(not wild, f"gradients are not finite: {', '.join(wild[:4])}")
        _need(
            not unused,
            f"no gradient reaches {', '.join(unused[:4])}: unused weights stop training on several processes",
        )

    def answer(network: nn.Module, *what: Any) -> Tensor:
        with torch.no_grad():
            return network(*what)

    def depends_on_time() -> None:
        network, x, (_, _, conditioning) = trained()[0], inputs(4)[0], inputs(4)
        low, high = (answer(network, x, torch.full((4,), value), conditioning) for value in (0.2, 0.8))
        _need(float((low - high).abs().max()) > 1e-4, "after training its answer is the same at t = 0.2 and t = 0.8")

    def depends_on_caption() -> None:
        network, (x, t, conditioning) = trained()[0], inputs(4)
        other = inputs(4)[2]
        difference = answer(network, x, t, conditioning) - answer(network, x, t, other)
        _need(float(difference.abs().max()) > 1e-4, "after training its answer is the same for other captions")

    def padding() -> None:
        network, (x, t, conditioning) = trained()[0], inputs(4)
        tokens = torch.where(conditioning.mask[..., None], conditioning.tokens, conditioning.tokens + 3)
        other = Conditioning(tokens, conditioning.mask, conditioning.pooled)
        _close(answer(network, x, t, conditioning), answer(network, x, t, other), 1e-4, "masked tokens change the answer")

    def batching() -> None:
        network, (x, t, conditioning) = trained()[0], inputs(4)
        alone = torch.cat([answer(network, x[[i]], t[[i]], conditioning[[i]]) for i in range(4)])
        _close(answer(network, x, t, conditioning), alone, 1e-3, "an image changes with the others of its batch")

    def saves() -> None:
        network, what = trained()[0], inputs(2)
        weights = load(save({name: value.contiguous() for name, value in network.state_dict().items()}))
        again = build().eval()
        again.load_state_dict(weights)
        _close(answer(network, *what), answer(again, *what), 1e-5, "saved and loaded, it answers otherwise")

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            y = answer(trained()[0], *inputs(2))
        _need(bool(y.isfinite().all()), "its answer is not finite under bf16")

    return [
        ("y has x's shape and is finite", shape),
        ("every weight gets a finite gradient", gradients),
        ("depends on t", depends_on_time),
        ("depends on the caption", depends_on_caption),
        ("masked tokens do not count", padding),
        ("batching changes no image", batching),
        ("saves and loads", saves),
        ("runs under bf16 autocast", half),
    ]


# ---------------------------------------------------------------------------------------------------- text


def text_checks(config: TextConfig) -> Checks:
    """Checks of a text encoder."""
    captions = ["a red circle", "a large blue square above a red circle", "seven"]
    labels = {caption: i for i, caption in enumerate(captions)}

    @functools.cache
    def encoder() -> Any:
        torch.manual_seed(0)
        return config.build(captions, labels).eval()

    def encode(prompts: list[str]) -> Conditioning:
        with torch.no_grad():
            found = encoder().encode(prompts)
        return Conditioning(found.tokens.detach(), found.mask, found.pooled.detach())

    def shapes() -> str:
        found, width = encode(captions), encoder().width
        b, length, d = found.tokens.shape
        _need(b == 3 and d == width, f"3 captions give tokens {[b, length, d]}, expected [3, L, {width}]")
        _need(found.mask.shape == (3, length), f"the mask is {list(found.mask.shape)}, expected {[3, length]}")
        _need(found.mask.dtype == torch.bool, f"the mask is {found.mask.dtype}, expected bool")
        _need(found.pooled.shape == (3, width), f"pooled is {list(found.pooled.shape)}, expected {[3, width]}")
        _need(bool(found.mask.any(1).all()), "a caption has no token at all")
        _need(bool(found.pooled.isfinite().all() and found.tokens.isfinite().all()), "not finite")
        return f"D = {width}"

    def tells_apart() -> None:
        said = [*captions, ""]
        pooled = encode(said).pooled
        for i in range(4):
            for j in range(i):
                apart = float((pooled[i] - pooled[j]).abs().max())
                _need(apart > 1e-6, f"{said[j]!r} and {said[i]!r} are the same")

    def batching() -> None:
        whole = encode(captions)
        for i, caption in enumerate(captions):
            one = encode([caption])
            _close(one.pooled[0], whole.pooled[i], 1e-4, "a caption changes with the others of its batch")
            _close(one.tokens[0][one.mask[0]], whole.tokens[i][whole.mask[i]], 1e-4, "a caption's tokens change in a batch")

    def prompts() -> None:
        encoder().check(captions[0])
        try:
            encoder().check("")
        except PromptError:
            return
        raise CheckError('the empty prompt passes `check`; raise PromptError, since "" is the null caption')

    def saves() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encoder().save(Path(folder))
            again = config.load(Path(folder))
        again.load_state_dict(load(save({name: value.contiguous() for name, value in encoder().state_dict().items()})))
        with torch.no_grad():
            _close(
                again.eval().encode(captions).pooled,
                encode(captions).pooled,
                1e-5,
                "saved and loaded, it says otherwise",
            )

    def gradients() -> str | None:
        if not encoder().trained:
            return "frozen"
        found = encoder().encode([*captions, ""])
        (found.pooled.square().sum() + found.tokens.square().sum()).backward()
        unused = [name for name, p in encoder().named_parameters() if p.requires_grad and p.grad is None]
        encoder().zero_grad()
        _need(not unused, f"no gradient reaches {', '.join(unused[:4])}")
        return None

    return [
        ("tokens, mask and pooled have their shapes", shapes),
        ("captions and the null caption differ", tells_apart),
        ("batching changes no caption", batching),
        ("check passes known prompts and refuses the empty one", prompts),
        ("saves and loads", saves),
        ("every weight gets a gradient", gradients),
    ]


# ---------------------------------------------------------------------------------------------------- codec


def codec_checks(codec: Codec) -> Checks:
    """Checks of a codec on smooth pictures."""

    def picture(channels: int, count: int = 2) -> Tensor:
        ramp = torch.linspace(0, 255, 32)
        image = (ramp[:, None] + ramp[None]) / 2
        planes = [image.roll(5 * k, dims=k % 2) if k else image for k in range(channels)]
        return torch.stack([torch.stack(planes), torch.stack(planes).flip(-1)])[:count].round().to(torch.uint8)

    @functools.cache
    def channels() -> int:
        for count in (1, 3):
            try:
                codec.latent_shape(count, (32, 32))
                codec.encode(picture(count))
            except (LimnerError, RuntimeError, ValueError):
                continue
            return count
        raise CheckError("it takes neither grey nor RGB images of 32x32 pixels")

    def shapes() -> str:
        latents, shape = codec.encode(picture(channels())), tuple(codec.latent_shape(channels(), (32, 32)))
        _need(tuple(latents.shape[1:]) == shape, f"latents are {list(latents.shape[1:])}, latent_shape says {list(shape)}")
        _need(latents.dtype == torch.float32, f"latents are {latents.dtype}, expected float32")
        _need(bool(latents.isfinite().all()), "latents are not finite")
        return f"{channels()}x32x32 pixels to {'x'.join(map(str, shape))}"

    def round_trip() -> str:
        pixels = picture(channels())
        back = codec.decode(codec.encode(pixels))
        _need(back.dtype == torch.uint8, f"decode gives {back.dtype}, expected uint8")
        _need(back.shape == pixels.shape, f"decode gives {list(back.shape)} for {list(pixels.shape)}")
        error = (back.float() - pixels.float()).abs()
        _need(float(error.mean()) <= 8, f"pixels come back {float(error.mean()):.3g} of 255 levels off on average")
        return f"largest error {float(error.max()):.0f} of 255"

    def unit() -> str:
        spread = float(codec.encode(picture(channels())).std())
        _need(0.1 < spread < 5, f"latents have standard deviation {spread:.3g}; scale them to about 1, the noise's")
        return f"standard deviation {spread:.2g}"

    def clips() -> None:
        latents = codec.encode(picture(channels()))
        _need(codec.clip(latents * 3).shape == latents.shape, "clip changes the shape")
        _close(codec.clip(latents), latents, 1e-3, "clip changes latents of real pictures")

    def out_of_range() -> None:
        pixels = codec.decode(codec.encode(picture(channels())) * 1e3)
        _need(pixels.dtype == torch.uint8, f"decode gives {pixels.dtype}, expected uint8")
        _need(int(pixels.max()) > 200, "bright latents far out of range wrap around to dark: clip before uint8")

    def batching() -> None:
        pixels = picture(channels())
        alone = torch.cat([codec.encode(pixels[i : i + 1]) for i in range(2)])
        _close(codec.encode(pixels), alone, 1e-4, "an image's latents change with the others of its batch, or by chance")

    return [
        ("latents have the stated shape", shapes),
        ("pixels come back", round_trip),
        ("latents are of about unit size", unit),
        ("clip leaves real latents alone", clips),
        ("decode clips what is out of range", out_of_range),
        ("encoding is the same each time, in any batch", batching),
    ]


# ---------------------------------------------------------------------------------------------------- source


def source_checks(source: Source) -> Checks:
    """Checks of a data source: it is opened, in a folder that is removed afterwards."""

    @functools.cache
    def first(count: int = 64) -> list[Any]:
        return list(islice(source.examples(), count))

    def yields() -> str:
        examples = first()
        _need(bool(examples), "it yields no example")
        for example in examples:
            _need(bool(example.name), "an example has no name, which messages need")
            _need(example.image is not None or bool(example.bad), f"{example.name}: no image and no reason (`bad`)")
        return f"{len(examples)}{' or more' if len(examples) == 64 else ''} examples"

    def same() -> None:
        for one, other in zip(first(), islice(source.examples(), 64), strict=True):
            here = (one.name, one.label, one.texts, one.test) == (other.name, other.label, other.texts, other.test)
            pixels = isinstance(one.image, np.ndarray)
            alike = np.array_equal(one.image, other.image) if pixels else one.image == other.image  # type: ignore[arg-type]
            _need(here and bool(alike), f"{one.name}: read again it is another example: the order must always be the same")

    def stamp() -> None:
        _need(json.dumps(source.stamp()) == json.dumps(source.stamp()), "it changes from call to call")

    def opens() -> str:
        with tempfile.TemporaryDirectory() as folder:
            store = source.open(Path(folder) / "a", processes=1)
            count, shape = len(store), tuple(store.images.shape[1:])
            _need(count > 0, "the store is empty")
            _need(
                source.shape is None or shape == tuple(source.shape),
                f"images are {shape}, the source says {source.shape}",
            )
            for i in sorted({0, count // 2, count - 1}):
                captions = store.captions_of(i)
                _need(bool(captions) and all(map(str.strip, captions)), f"image {i} has no caption, or an empty one")
            splits = [set(store.split(name).tolist()) for name in ("train", "judge", "test")]
            _need(sum(map(len, splits)) == len(set.union(*splits)) == count, "splits overlap or leave images out")
            _need(bool(splits[0]), "nothing is left to train on")
            if store.class_names:
                high = int(store.labels.max())
                _need(high < len(store.class_names), f"label {high}, but there are {len(store.class_names)} classes")
            again = source.open(Path(folder) / "b", processes=1)
            _need(again.fingerprint == store.fingerprint, "opened in another folder, its content is another")
            return f"{count} images of {'x'.join(map(str, shape))}, {len(store.bad)} bad"

    return [
        ("yields examples", yields),
        ("the same examples each time", same),
        ("stamp is JSON and steady", stamp),
        ("opens: shapes, captions, labels, disjoint splits, always the same", opens),
    ]


# ---------------------------------------------------------------------------------------------------- samplers

_MEAN, _SPREAD = 0.7, 0.4


def _data(count: int = 4096) -> tuple[Tensor, Tensor]:
    """Return (data [N 1 1 1] of the Gaussian, noise [N 1 1 1]): even quantiles in two shuffled orders."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = torch.special.ndtri(u).reshape(-1, 1, 1, 1)
    generator = torch.Generator().manual_seed(5)
    return _MEAN + _SPREAD * z[torch.randperm(count, generator=generator)], z[torch.randperm(count, generator=generator)]


def _gaussian(process: Process, spread: float | Tensor = _SPREAD) -> Denoise:
    """Return the ideal denoiser of N(mean, spread²); `spread` may be one number an image."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t.double()), process.sigma(t.double())
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return (_MEAN + expand(gain, x_t.double()) * (x_t - expand(alpha, x_t.double()) * _MEAN)).to(x_t.dtype)

    return denoise


def sampler_checks(sampler: Sampler) -> Checks:
    """Checks of a sampler on data whose ideal denoiser is known."""
    spreads = torch.linspace(0.25, 1.6, 7, dtype=torch.float64)
    grid = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(7, 1, 1, 1)

    def run(process: Process, denoise: Denoise, x: Tensor, times: Tensor, seed: int = 0) -> list[Step]:
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(x))] if len(x) < 100 else []
        whole = torch.Generator().manual_seed(seed)

        def noise() -> Tensor:
            if not generators:
                return torch.randn(x.shape, generator=whole, dtype=x.dtype)
            return torch.stack([torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in generators])

        wants = "noise" in inspect.signature(sampler.function).parameters
        options: dict[str, Any] = {"noise": noise} if sampler.stochastic and wants else {}
        found = sampler.function(denoise, x, times, process, **options)
        _need(
            inspect.isgenerator(found) or hasattr(found, "__next__"),
            f"it returns a {type(found).__name__}; yield Steps",
        )
        return list(found)

    def lands() -> None:
        for process in PROCESSES:
            for num_steps in (1, 4):
                times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
                steps = run(process, _gaussian(process), torch.randn(2, 1, 3, 3), times)
                _need(bool(steps) and isinstance(steps[-1], Step), "it yields nothing, or something that is no Step")
                _need(steps[-1].t == 0, f"the last Step has t = {steps[-1].t:.4g} and not 0")
                seen = [step.t for step in steps]
                _need(all(a > b for a, b in pairwise(seen)), f"times do not fall: {seen[:6]}")
                for step in steps:
                    _need(step.x.shape == (2, 1, 3, 3) and step.x0.shape == (2, 1, 3, 3), f"shape {list(step.x.shape)}")
                    _need(step.x.dtype == torch.float32, f"single precision becomes {step.x.dtype}")
                    _need(bool(step.x.isfinite().all()), f"not finite at t = {step.t:.4g} under {process.kind}")

    def single_datum() -> None:
        for process in PROCESSES:
            x = float(process.sigma(torch.ones(1))) * grid + float(process.alpha(torch.ones(1))) * _MEAN
            found = run(process, lambda x_t, t: torch.full_like(x_t, _MEAN), x, torch.linspace(1, 0, 9, dtype=torch.float64))
            _close(
                found[-1].x,
                torch.full_like(grid, _MEAN),
                1e-3,
                f"one and the same datum is missed under {process.kind}",
            )

    def asks() -> None:
        asked: list[Tensor] = []

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            asked.append(t)
            return _gaussian(PROCESSES[0])(x_t, t)

        x = torch.randn(3, 1, 2, 2)
        before = x.clone()
        run(PROCESSES[0], denoise, x, torch.linspace(1, 0, 5, dtype=torch.float64))
        _need(bool(asked), "it never asks the network")
        for t in asked:
            _need(t.shape == (3,), f"it asks at t of shape {list(t.shape)}, expected [B]")
            _need(bool(((t >= 0) & (t <= 1)).all()), f"it asks at t = {float(t.max()):.4g}, outside [0, 1]")
        _close(x, before, 0, "it changes the noise that it was given")

    def error(process: Process, num_steps: int) -> float:
        times = torch.linspace(0.9, 0.1, num_steps + 1, dtype=torch.float64)
        ends = times[[0, -1]]
        alpha, sigma = process.alpha(ends), process.sigma(ends)
        before, after = (alpha[i] ** 2 * spreads**2 + sigma[i] ** 2 for i in (0, 1))
        exact = alpha[1] * _MEAN + expand((after / before).sqrt(), grid) * (grid - alpha[0] * _MEAN)
        return float((run(process, _gaussian(process, spreads), grid, times)[-1].x - exact).abs().max())

    def order(process: Process) -> str:
        errors = [error(process, n) for n in (40, 80, 160)]
        if errors[-1] < 1e-10:
            return "exact"
        _need(errors[0] > errors[1] > errors[2], "more steps are not nearer: " + ", ".join(f"{e:.2g}" for e in errors))
        found = math.log2(errors[1] / errors[2])
        _need(found > sampler.order - 0.25, f"of order {found:.2f}, not {sampler.order}")
        return f"order {found:.2f}"

    def distribution(process: Process) -> str:
        times = torch.linspace(1, 0, 129, dtype=torch.float64)
        data, noise = _data()
        x = data * float(process.alpha(times[:1])) + noise * float(process.sigma(times[:1]))
        found = run(process, _gaussian(process), x, times)[-1].x
        away = max(abs(float(found.mean()) - _MEAN), abs(float(found.std()) - _SPREAD))
        _need(away < 0.06, f"mean and spread of Gaussian data are {away:.3g} off")
        return f"mean and spread within {away:.2g}"

    def batching() -> None:
        process, times = PROCESSES[0], torch.linspace(1, 0, 7, dtype=torch.float64)
        x = torch.randn(3, 1, 4, 4)
        whole = run(process, _gaussian(process), x, times, seed=3)[-1].x
        alone = torch.cat([run(process, _gaussian(process), x[[i]], times, seed=3 + i)[-1].x for i in range(3)])
        _close(whole, alone, 1e-5, "an image changes with the others of its batch")

    def counts() -> str:
        calls = [0]

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            calls[0] += 1
            return x_t * 0

        run(PROCESSES[0], denoise, torch.randn(1, 1, 2, 2), torch.linspace(1, 0, 9, dtype=torch.float64))
        _need(calls[0] == sampler.evaluations(8), f"8 steps ask {calls[0]} times, `stages` says {sampler.evaluations(8)}")
        return f"{calls[0]} for 8 steps"

    checks: Checks = [
        ("yields Steps that fall to t = 0", lands),
        ("a single datum is met", single_datum),
        ("asks at t [B] inside [0, 1] and leaves the noise alone", asks),
        ("batching changes no image", batching),
        ("network evaluations", counts),
    ]
    for process in PROCESSES:
        what = (
            ("Gaussian data keep their distribution", distribution) if sampler.stochastic else ("converges on Gaussian data", order)
        )
        checks.append((f"{what[0]} under {process.kind}", functools.partial(what[1], process)))
    return checks


# ---------------------------------------------------------------------------------------------------- guidance


class _GuidanceFunction:
    """A guidance function behind the same door as a Guidance config."""

    def __init__(self, function: Callable[..., Denoise]) -> None:
        self.function = function
        self.names = inspect.signature(function).parameters

    def apply(self, denoise: Any, cond: Conditioning, null: Conditioning, *, scale: float, weak: Any) -> Denoise:
        """Return the guided denoiser, giving the function those arguments that it names."""
        known = {"denoise": denoise, "cond": cond, "null": null, "scale": scale, "weak": weak, "process": PROCESSES[0]}
        return self.function(**{name: value for name, value in known.items() if name in self.names})


def guidance_checks(guidance: Guidance | _GuidanceFunction) -> Checks:
    """Checks of guidance with a denoiser whose answers are known."""
    cond = Conditioning(torch.zeros(3, 1, 2), torch.ones(3, 1, dtype=torch.bool), torch.tensor([[1.0, 0], [2, 0], [3, 0]]))
    null = Conditioning(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 2))
    x, t = torch.randn(3, 1, 4, 4), torch.full((3,), 0.5)

    def denoise(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return 0.1 * x_t + 0.1 * conditioning.pooled[:, :1, None, None] * torch.linspace(-1, 1, 4)

    def weak(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return 0.5 * denoise(x_t, t, conditioning)

    def apply(scale: float, cond: Conditioning = cond) -> Denoise:
        if isinstance(guidance, _GuidanceFunction):
            return guidance.apply(denoise, cond, null, scale=scale, weak=weak)
        shift = guidance.w - guidance.scale
        changed = guidance.model_copy(update={"scale": scale - shift})
        return changed.apply(denoise, cond, null, process=PROCESSES[0], weak=weak)

    def returns() -> None:
        guided = apply(3.0)
        _need(callable(guided), f"it returns a {type(guided).__name__}, not denoise(x_t, t)")
        y = guided(x, t)
        _need(y.shape == x.shape, f"x {list(x.shape)} gives {list(y.shape)}")
        _need(bool(y.isfinite().all()), "not finite")

    def conditional() -> None:
        _close(apply(1.0)(x, t), denoise(x, t, cond), 1e-4, "at scale 1 it is not the conditional answer")

    def acts() -> None:
        difference = float((apply(3.0)(x, t) - denoise(x, t, cond)).abs().max())
        _need(difference > 1e-4, "at scale 3 it is the conditional answer: it does nothing")

    def batching() -> None:
        whole = apply(3.0)(x, t)
        alone = torch.cat([apply(3.0, cond[[i]])(x[[i]], t[[i]]) for i in range(3)])
        _close(whole, alone, 1e-4, "an image changes with the others of its batch")

    def steps() -> None:
        guided = apply(3.0)
        for time in (1.0, 0.5, 0.01):
            _need(bool(guided(x, torch.full((3,), time)).isfinite().all()), f"not finite at t = {time:g}")

    return [
        ("returns denoise(x_t, t)", returns),
        ("scale 1 is the conditional answer", conditional),
        ("scale 3 changes it", acts),
        ("batching changes no image", batching),
        ("finite from t = 1 to nearly 0", steps),
    ]


FAMILIES: tuple[tuple[type, str, Callable[[Any], Checks]], ...] = (
    (Process, "process", process_checks),
    (Target, "target", target_checks),
    (Times, "times", times_checks),
    (NetworkConfig, "network", network_checks),
    (TextConfig, "text encoder", text_checks),
    (Codec, "codec", codec_checks),
    (Source, "source", source_checks),
    (Guidance, "guidance", guidance_checks),
    (Sampler, "sampler", sampler_checks),
)


# ---------------------------------------------------------------------------------------------------- small things


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)


def _close(found: Tensor, wanted: Tensor, tolerance: float, otherwise: str) -> None:
    if found.shape != wanted.shape:
        raise CheckError(f"{otherwise}: shape {list(found.shape)} instead of {list(wanted.shape)}")
    if found.numel() == 0:
        return
    error = float((found.detach().double() - wanted.detach().double()).abs().max())
    if not error <= tolerance:  # also for NaN
        raise CheckError(f"{otherwise} (off by {error:.3g})")


def _first(t: Tensor, where: Tensor) -> str:
    found = t[where]
    return f"{float(found[0]):.4g}" if len(found) else "none"


def _last(steps: Iterable[Step]) -> Step:
    *_, step = steps
    return step


def _required(function: Callable[..., Any]) -> set[str]:
    """Return the names of a function's parameters without defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.default is p.empty}
