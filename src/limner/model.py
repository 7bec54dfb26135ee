"""A Model is everything needed to turn a prompt into pixels: codec, text encoder, network, process, target, null conditioning.

It is one folder of safetensors and JSON, written whole or not at all, and nothing about it has to be remembered elsewhere:

    model.json            the configs of its parts, image size and channels, sampling defaults, class names, where it comes from
    weights.safetensors   text.* and network.*, fp32; its SHA-256 names the model
    null.safetensors      what the text encoder says to "", checked on loading
    tokenizer.json, ...   what the text encoder needs beside weights

Next: `guidance.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limner.codecs import CODECS
from limner.config import Config, own_code, validate
from limner.errors import CheckpointError, ConfigError, LimnerError, shorten
from limner.files import publish
from limner.networks import NETWORKS
from limner.process import PROCESSES, TARGETS
from limner.sampling import Sampling
from limner.text import TEXTS, TextEncoder
from limner.types import Conditioning

FORMAT = 1


class ModelConfig(Config):
    """What `model.json` holds.

    Arguments:
        channels, size: of the pixels: 1 or 3, (height, width).
        labels: caption -> class index for data with classes; class_names: index -> name.
        captions: a few captions of the training data, as examples of what can be asked.
        provenance: data, budget, weights and versions that made it.
    """

    format: int = FORMAT
    channels: int = Field(ge=1, le=64)
    size: tuple[int, int]
    codec: CODECS.field()  # type: ignore[valid-type]
    text: TEXTS.field()  # type: ignore[valid-type]
    network: NETWORKS.field()  # type: ignore[valid-type]
    process: PROCESSES.field()  # type: ignore[valid-type]
    target: TARGETS.field()  # type: ignore[valid-type]
    t_max: float = Field(1.0, gt=0, le=1)
    sample: Sampling = Sampling()
    class_names: tuple[str, ...] = ()
    labels: dict[str, int] = Field(default_factory=dict)
    captions: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)


class Model:
    """A trained bundle. `denoise` is what guidance and samplers speak to.

    Arguments:
        config: what it is made of. text, network: the modules, with their weights.
        precision: `fp32`, or `bf16` for autocast of the network; master weights stay fp32.
        sha256: of the weights file it was loaded from; "" for a model that is not saved.
    """

    def __init__(
        self, config: ModelConfig, text: TextEncoder, network: nn.Module, *, precision: str = "fp32", sha256: str = ""
    ) -> None:
        self.config, self.text, self.network = config, text, network
        self.process, self.target, self.codec = config.process, config.target, config.codec
        self.precision, self.sha256 = precision, sha256
        self.weak: Model | None = None  # an earlier snapshot, for autoguidance
        self.latent_shape: tuple[int, int, int] = self.codec.latent_shape(config.channels, config.size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Model:
        """Move the weights to a device; return the model itself."""
        self.text.to(device)
        self.network.to(device)
        return self

    def encode(self, prompts: list[str]) -> Conditioning:
        """Return the Conditioning of B prompts, each distinct one encoded once; "" gives the null conditioning."""
        with torch.no_grad():
            return self.text.encode(prompts)

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the predicted data x0 [B C H W] float32 for x_t [B C H W] at times t [B]."""
        with torch.no_grad(), autocast(self.device, self.precision):
            y = self.network(x_t, t.to(x_t.dtype), conditioning)
        return self.target.x0(self.process, x_t, y.float(), t)

    def check(self, prompt: str) -> list[str]:
        """Return warnings about a prompt; raise PromptError when it cannot be asked."""
        return self.text.check(prompt)

    def save(self, folder: Path) -> str:
        """Write the bundle; the folder is whole or absent. Return the SHA-256 of the weights file."""
        with publish(folder) as temporary:
            weights = {f"text.{key}": value for key, value in self.text.state_dict().items()} if self.text.trained else {}
            weights |= {f"network.{key}": value for key, value in self.network.state_dict().items()}
            weights = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
            save_file(weights, temporary / "weights.safetensors", metadata={"format": "pt"})
            null = self.encode([""])
            save_file(
                {"tokens": null.tokens.float().cpu().clone(), "pooled": null.pooled.float().cpu().clone()},
                temporary / "null.safetensors",
            )
            self.text.save(temporary)
            digest = file_sha256(temporary / "weights.safetensors")
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir()) if path.name != "weights.safetensors"}
            document = self.config.model_dump(mode="json") | {"weights_sha256": digest, "files": files}
            (temporary / "model.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
        self.sha256 = digest
        return digest

    def generate(self, prompts: str | list[str], *, seed: int = 0, num: int = 1, **sampling: Any) -> list[Any]:
        """Return `num` PIL images for each prompt, prompt by prompt, with seeds seed, seed + 1, ...

        Arguments:
            sampling: what to change of the model's defaults: steps, guidance, sampler, ... (see `Sampling`), `negative`, `batch_size`.
        """
        from limner.generate import generate_images  # the floor above: only this convenience reaches up

        return generate_images(self, [prompts] if isinstance(prompts, str) else prompts, seed=seed, num=num, **sampling)


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Run the network's products in bf16 inside this block, when `precision` is bf16."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(path: str | Path) -> Path:
    """Return the model folder of a path: the folder itself, or RUN/model.

    Raises: CheckpointError saying what the folder is instead.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "model.json").is_file():
            return folder
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such run or model folder. Train one with: limner train digits --out {path}")
    if (path / "config.yaml").is_file():
        raise CheckpointError(
            f"{path}: this run has no model yet; it was stopped before its first model was written.\n"
            f"Go on with: limner train {path} --resume"
        )
    raise CheckpointError(f"{path}: this is no run or model folder (no model.json, no model/model.json in it).")


def load(path: str | Path, *, device: str | torch.device = "auto", precision: str = "auto", allow: tuple[str, ...] = ()) -> Model:
    """Return the model in a run or model folder.

    Arguments:
        device: `auto` takes the first GPU where there is one, else the CPU.
        precision: `auto` (bf16 where a timed probe shows it faster), `fp32` or `bf16`.
        allow: kinds FILE.py:NAME that the model may use; code is never run because a model names it.
    Raises: CheckpointError when files are missing, damaged or of another format; ConfigError for code not allowed.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision {precision!r}: auto, fp32 or bf16.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = locate(path)
    document = _read_json(folder / "model.json")
    stated, files = document.pop("weights_sha256", None), document.pop("files", {})
    if document.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}/model.json: format {shorten(document.get('format'))} is not {FORMAT}, which this limner reads."
        )
    try:
        with own_code(only=allow):
            config = validate(ModelConfig, document)
    except LimnerError as error:
        raise CheckpointError(f"{folder}/model.json: {error}") from error
    weights_path = folder / "weights.safetensors"
    if not weights_path.is_file():
        raise CheckpointError(f"{folder}: weights.safetensors is missing.")
    digest = file_sha256(weights_path)
    if digest != stated:
        raise CheckpointError(
            f"{weights_path}: damaged: its SHA-256 is {digest[:12]}..., model.json says {shorten(stated)[:13]}..."
        )
    _check_files(folder, files)
    try:
        weights = load_file(weights_path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights_path}: cannot be read: {error}") from error
    model = assemble(config, config.text.load(folder), precision="fp32", sha256=digest)
    put_weights(model, weights, where=str(weights_path))
    _check_null(model, folder)
    model.to(device)
    model.precision = probe_precision(model) if precision == "auto" else precision
    return model


def _check_files(folder: Path, files: Any) -> None:
    """Raise CheckpointError naming the first file whose SHA-256 is not the one that model.json states."""
    for name, digest in files.items() if isinstance(files, dict) else ():
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise CheckpointError(f"{path}: missing.")
        if file_sha256(path) != digest:
            raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one that model.json states.")


def _check_null(model: Model, folder: Path) -> None:
    """Raise CheckpointError unless the text encoder says to "" what it said when the model was saved."""
    path = folder / "null.safetensors"
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    null = model.encode([""])
    for name, value in (("tokens", null.tokens), ("pooled", null.pooled)):
        if (
            name not in stored
            or stored[name].shape != value.shape
            or not torch.allclose(stored[name], value.float(), atol=1e-3, rtol=1e-3)
        ):
            raise CheckpointError(f'{path}: the text encoder no longer says to "" what it said when this model was saved.')


def assemble(config: ModelConfig, text: TextEncoder, *, precision: str = "fp32", sha256: str = "") -> Model:
    """Return the model of a config with fresh weights in its network."""
    channels, *size = config.codec.latent_shape(config.channels, config.size)
    network = config.network.build(channels=channels, size=(size[0], size[1]), text_width=text.width)
    text.eval()
    network.eval()
    return Model(config, text, network, precision=precision, sha256=sha256)


def put_weights(model: Model, weights: dict[str, Tensor], *, where: str) -> None:
    """Put `text.*` and `network.*` tensors into a model.

    Raises: CheckpointError when names or shapes do not fit.
    """
    for prefix, module in (("text.", model.text), ("network.", model.network)):
        part = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if prefix == "text." and not model.text.trained:
            continue
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            lines = str(error).splitlines()[:4]
            raise CheckpointError(f"{where}: the weights do not fit the {prefix[:-1]}:\n" + "\n".join(lines)) from error


def probe_precision(model: Model, *, margin: float = 1.2) -> str:
    """Return `bf16` when one call of the network, timed, is at least `margin` times faster than in fp32; else `fp32`.

    CPUs without AVX512-BF16 or AMX emulate bf16 slowly, so it is measured and not assumed. A GPU that supports bf16 uses it.
    """
    device = model.device
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type != "cpu":
        return "fp32"
    from time import perf_counter

    x = torch.zeros(16, *model.latent_shape)
    conditioning = model.encode([""] * 16)
    seconds = {}
    for precision in ("fp32", "bf16"):
        times = []
        for _ in range(4):
            start = perf_counter()
            with torch.no_grad(), autocast(device, precision):
                model.network(x, torch.full((16,), 0.5), conditioning)
            times.append(perf_counter() - start)
        seconds[precision] = min(times[1:])
    return "bf16" if seconds["fp32"] > margin * seconds["bf16"] else "fp32"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object.")
    return value
