"""A judge is a small classifier trained on images that the generator never sees; it says what a picture shows, and in
what features.

It carries its own evidence: accuracy on images it has not seen, which images it has seen, how it was trained, the hash
of its weights. `judge_for` finds the judge of a data store in the cache or trains it. Next: `features.py`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.config import Config, validate
from limner.errors import CheckpointError, ConfigError, EvaluationError, LimnerError, MissingError
from limner.evaluation.augment import AUGMENTS
from limner.evaluation.classifiers import FEATURES, Classifier
from limner.files import publish


class JudgeConfig(Config):
    """How a judge is trained.

    Arguments:
        architecture: `conv`, or `residual`, which fails differently.
        augment: `digits` (affine and elastic, no flips), `photos` (flips, shifts, a grey square) or `none`.
        steps: the budget in optimizer steps (reproducible), or seconds: in seconds of wall time.
        batch, lr, weight_decay: of AdamW; the learning rate rises over a tenth of the budget and falls to 0 as a
            cosine.
        smoothing: of the labels. dropout: of the features. width: channels of the first layer.
        average: share of the budget, from the end, whose weights are averaged.
        precision: `auto` times bf16 against fp32 at the start.
        splits: whose images it trains on. Any other than `judge` has been seen by the generator, and is said in every
            score.
    """

    architecture: Literal["conv", "residual"] = "conv"
    augment: Literal["digits", "photos", "none"] = "digits"
    steps: int | None = Field(800, ge=1)
    seconds: float | None = Field(None, gt=0)
    batch: int = Field(128, ge=2)
    lr: float = Field(6e-3, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    width: int = Field(16, ge=1, le=512)
    average: float = Field(0.25, gt=0, le=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**63)
    splits: tuple[Literal["train", "judge", "test"], ...] = ("judge",)

    @model_validator(mode="after")
    def _one_budget(self) -> JudgeConfig:
        if (self.steps is None) == (self.seconds is None):
            raise ConfigError("judge: give one budget, either steps=800 or seconds=30 with steps=null.")
        return self


@dataclass(frozen=True)
class Seen:
    """Which images a judge was trained on.

    Arguments:
        store: fingerprint of the data store. splits: the names of its splits. num: how many images.
    """

    store: str = ""
    splits: tuple[str, ...] = ()
    num: int = 0

    def warning(self, store: str) -> str:
        """Return what a reader of scores on this store's generator must be told; "" when the judge is independent."""
        if store and store == self.store and "train" in self.splits:
            return "the judge was trained on images that the generator was trained on: its verdicts flatter copies of them"
        return ""


@dataclass
class Judge:
    """A trained classifier with its evidence.

    Arguments:
        network: gives features [N, 64] and logits [N, K]. config: how it was trained.
        image_shape: (C, H, W) that it reads. class_names: of its K classes.
        accuracy: on `tested_on` images that it has not seen; None where it was not tested.
        seen: what it was trained on. steps, seconds: what the training took.
    """

    network: Classifier
    config: JudgeConfig
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    accuracy: float | None = None
    tested_on: int = 0
    seen: Seen = field(default_factory=Seen)
    steps: int = 0
    seconds: float = 0.0
    precision: str = "fp32"
    sha256: str = ""

    @property
    def name(self) -> str:
        """What reports call its features."""
        return f"judge-{self.config.architecture}"

    def read(self, images: np.ndarray, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Return features [N, 64] float64 and probabilities [N, K] float64 of images [N, C, H, W] uint8, always in
        fp32.

        Raises: EvaluationError when the images are of another shape or type.
        """
        _check_images(images, self.image_shape)
        features, probabilities = [], []
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                pixels = _pixels(torch.from_numpy(np.array(images[start : start + batch_size])))
                feature, logits = self.network(pixels)
                if self.config.augment == "photos":  # it learned mirrored images too: both opinions are worth more than one
                    mirrored, other = self.network(pixels.flip(3))
                    feature, logits = (feature + mirrored) / 2, (logits + other) / 2
                features.append(feature.double().numpy())
                probabilities.append(logits.double().softmax(1).numpy())
        return np.concatenate(features), np.concatenate(probabilities)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, 64] float64 of images [N, C, H, W] uint8."""
        return self.read(images)[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return [N, K] float64 of images [N, C, H, W] uint8; each row sums to 1."""
        return self.read(images)[1]

    def test(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Measure the accuracy on images that the judge has not seen, keep it, and return it."""
        found = self.probabilities(images).argmax(1)
        self.accuracy, self.tested_on = float((found == np.asarray(labels)).mean()), len(images)
        return self.accuracy

    def describe(self) -> dict[str, Any]:
        """Return the judge's evidence as JSON, for the provenance of scores."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "accuracy": self.accuracy,
            "tested_on": self.tested_on,
            "seen": asdict(self.seen) | {"splits": list(self.seen.splits)},
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "precision": self.precision,
            "config": self.config.model_dump(mode="json"),
        }

    def save(self, folder: Path) -> str:
        """Write `judge.safetensors` and `judge.json`; the folder is whole or absent. Return the weights' SHA-256."""
        document = self.describe() | {"image_shape": self.image_shape, "class_names": self.class_names}
        with publish(Path(folder)) as temporary:
            save_file(_state(self.network), temporary / "judge.safetensors")
            (temporary / "judge.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        return self.sha256

    @staticmethod
    def load(folder: Path) -> Judge:
        """Return the judge in a folder.

        Raises: MissingError when there is none; CheckpointError when it is damaged or was made by another version.
        """
        folder = Path(folder)
        if not (folder / "judge.json").is_file():
            raise MissingError(f"{folder}: there is no judge here (no judge.json). Train one: limner train judge-digits")
        try:
            document = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
            config = validate(JudgeConfig, document["config"])
            shape, names = document["image_shape"], tuple(document["class_names"])
            network = _network(config, int(shape[0]), len(names))
            network.load_state_dict(load_file(folder / "judge.safetensors"))
            seen = Seen(document["seen"]["store"], tuple(document["seen"]["splits"]), document["seen"]["num"])
            judge = Judge(
                network,
                config,
                (shape[0], shape[1], shape[2]),
                names,
                document["accuracy"],
                document["tested_on"],
                seen,
            )
            judge.steps, judge.seconds, judge.precision = document["steps"], document["seconds"], document["precision"]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, LimnerError) as error:
            raise CheckpointError(f"{folder}: this judge cannot be read: {error}. Delete the folder to train it again.") from error
        judge.sha256 = _hash(network)
        if judge.sha256 != document["sha256"]:
            raise CheckpointError(f"{folder}: damaged: the weights' SHA-256 is {judge.sha256[:12]}..., not what judge.json says.")
        return judge


def train_judge(
    images: np.ndarray,
    labels: np.ndarray,
    config: JudgeConfig | None = None,
    *,
    class_names: tuple[str, ...] = (),
    seen: Seen | None = None,
    progress: Any = None,
) -> Judge:
    """Return a judge trained on images [N, C, H, W] uint8 and labels [N]; the same steps and seed give the same
    weights.

    Arguments:
        progress: called as progress(share of the budget, loss) now and then.
    Raises: EvaluationError for images of another type, labels that do not fit, fewer than two classes.
    """
    config = config or JudgeConfig()
    labels = np.asarray(labels)
    _check_images(images, None)
    if len(labels) != len(images) or len(images) < 2 or labels.min() < 0 or len(np.unique(labels)) < 2:
        raise EvaluationError("a judge needs two or more classes, and one label of 0 or more for every image.")
    classes = len(class_names) or int(labels.max()) + 1
    if int(labels.max()) >= classes:
        raise EvaluationError(f"a label is {int(labels.max())}, but there are {classes} class names.")
    names = tuple(class_names) or tuple(str(index) for index in range(classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _network(config, images.shape[1], classes)
        start = perf_counter()
        precision = _probe(network, images.shape[1:]) if config.precision == "auto" else config.precision
        steps = _fit(network, torch.from_numpy(np.array(images)), torch.from_numpy(labels).long(), config, precision, progress)
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    judge = Judge(network, config, shape, names, seen=seen or Seen(num=len(images)))
    judge.steps, judge.seconds, judge.precision = steps, perf_counter() - start, precision
    judge.sha256 = _hash(network)
    return judge


def _fit(network: Classifier, images: Tensor, labels: Tensor, config: JudgeConfig, precision: str, progress: Any) -> int:
    """Train `network` in place, leave the average of its last weights in it, and return the number of steps."""
    generator = torch.Generator().manual_seed(config.seed)
    augment = AUGMENTS[config.augment]
    batch = min(config.batch, len(images))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average, averaged = copy.deepcopy(network), 0
    order, position, step, start = torch.empty(0, dtype=torch.long), 0, 0, perf_counter()
    while True:
        share = step / config.steps if config.steps else (perf_counter() - start) / (config.seconds or 1.0)
        if share >= 1:
            break
        if position + batch > len(order):
            order, position = torch.randperm(len(images), generator=generator), 0
        rows = order[position : position + batch]
        position += batch
        rate = config.lr * min(share / 0.1, 0.5 + 0.5 * float(np.cos(np.pi * max(0.0, share - 0.1) / 0.9)))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-3 * config.lr)
        pixels = augment(_pixels(images[rows]), generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            _, logits = network(pixels)
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=config.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if share >= 1 - config.average:
            averaged += 1
            with torch.no_grad():
                for kept, current in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    kept.copy_(kept + (current - kept) / averaged if kept.is_floating_point() else current)
        if progress and step % 50 == 0:
            progress(min(1.0, share), loss.item())
    network.load_state_dict((average if averaged else network).state_dict())
    network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return step


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _network(config: JudgeConfig, channels: int, classes: int) -> Classifier:
    return Classifier(config.architecture, channels=channels, classes=classes, width=config.width, dropout=config.dropout)


def _probe(network: Classifier, shape: tuple[int, ...]) -> str:
    """Return `bf16` when one step in it, timed, is 1.2 times faster than in fp32."""
    trial = copy.deepcopy(network).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.zeros(128, *shape).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for precision in ("fp32", "bf16"):
        times = []
        for _ in range(4):
            begin = perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                trial(pixels)[1].sum().backward()
            times.append(perf_counter() - begin)
        seconds[precision] = min(times[1:])
    return "bf16" if seconds["fp32"] > 1.2 * seconds["bf16"] else "fp32"


def _state(network: Classifier) -> dict[str, Tensor]:
    return {key: value.detach().contiguous() for key, value in network.state_dict().items()}


def _hash(network: Classifier) -> str:
    """Return the SHA-256 of names and values of the weights."""
    digest = hashlib.sha256(str(FEATURES).encode())
    for key, value in sorted(_state(network).items()):
        digest.update(key.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _check_images(images: np.ndarray, shape: tuple[int, int, int] | None) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise EvaluationError(f"images are [N, C, H, W] uint8, not {list(images.shape)} {images.dtype}.")
    if len(images) == 0:
        raise EvaluationError("there are no images.")
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise EvaluationError(f"the judge reads images of {list(shape)} [C, H, W], these are {list(images.shape[1:])}.")
