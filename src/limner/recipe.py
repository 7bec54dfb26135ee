"""A recipe is the whole of a training run in one YAML file: data, codec, text, network, process, target, times, train, sample.

`find` turns a recipe's name or file plus `a.b=c` overrides into a validated `Recipe`. The recipes that come with the package are in
`recipes/`, each headed by its command, hardware, time, and expected and measured score. Next: `model.py`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from limner.codecs import CODECS
from limner.config import Config, override, own_code, read_yaml, validate, write_yaml
from limner.data import SOURCES
from limner.errors import ConfigError, nearest
from limner.networks import NETWORKS
from limner.process import PROCESSES, TARGETS, TIMES
from limner.process.targets import MinSNR
from limner.sampling import Sampling
from limner.text import TEXTS


class Train(Config):
    """How long, how fast and in which portions to train.

    Arguments:
        images: the budget in images (reproducible), or
        seconds: the budget in seconds of wall time; the learning rate's decay ends with the budget either way.
        batch: images of one optimizer step, over all processes and accumulation together.
        accumulate: portions that a process splits its part of the batch into, to save memory.
        lr, betas, weight_decay: of AdamW. text_lr: of the text encoder, if it differs.
        warmup: steps over which the learning rate rises from 0.
        decay: what it does afterwards: linear or cosine to 0 at the budget's end, or constant.
        clip: largest norm of the gradient.
        drop: share of captions dropped (per image), which trains the unconditional half of guidance.
        flip, shift: random horizontal flips; random shifts by up to so many pixels.
        ema: widths sigma_rel of the power-function averages that are kept. model_ema: the one that the model folder gets.
        snapshots: how many snapshots of the averages are kept, evenly over the budget, to rebuild other widths from.
        precision: `auto` times bf16 against fp32 at the start. Master weights are fp32 always.
        checkpoint_seconds, checkpoint_images: when to write checkpoints. keep: how many.
        log_images: images between two lines of metrics. previews: how many pictures of progress over the budget.
        heldout: images of the held-out loss. trackers: accelerate's names (tensorboard, wandb, mlflow, trackio, ...).
        compile: compile the network block by block (pays on GPUs in long runs).
        shard: spread weights, averages and optimizer over the processes (FSDP2) instead of copying them to each (DDP).
    """

    images: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    batch: int = Field(128, ge=1, le=65536)
    accumulate: int = Field(1, ge=1, le=4096)
    lr: float = Field(2e-3, gt=0, le=1)
    text_lr: float | None = Field(None, gt=0, le=1)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0, le=10)
    warmup: int = Field(100, ge=0)
    decay: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = Field(1.0, gt=0)
    drop: float = Field(0.1, ge=0, lt=1)
    flip: bool = False
    shift: int = Field(0, ge=0, le=64)
    ema: tuple[float, ...] = (0.05, 0.10)
    model_ema: float = 0.10
    snapshots: int = Field(8, ge=0, le=1000)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_seconds: float | None = Field(60.0, gt=0)
    checkpoint_images: int | None = Field(None, ge=1)
    keep: int = Field(2, ge=1)
    log_images: int = Field(2560, ge=1)
    previews: int = Field(6, ge=0, le=1000)
    heldout: int = Field(256, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)
    trackers: tuple[str, ...] = ("tensorboard",)
    compile: bool = False
    shard: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if (self.images is None) == (self.seconds is None):
            raise ConfigError("train: give one budget, either train.images=200000 or train.seconds=120.")
        if not self.ema or any(not 0 < width < 0.28 for width in self.ema):
            raise ConfigError("train.ema: one or more widths sigma_rel between 0 and 0.28, such as [0.05, 0.10].")
        if self.model_ema not in self.ema:
            raise ConfigError(f"train.model_ema: {self.model_ema} is not among the widths of train.ema {list(self.ema)}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("train.betas: two numbers in [0, 1), such as [0.9, 0.99].")
        return self


class Recipe(Config):
    """Everything that a training run is made of."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    about: str = ""
    hardware: str = ""
    time: str = ""
    expected: str = ""
    measured: str = ""
    data: SOURCES.field()  # type: ignore[valid-type]
    codec: CODECS.field() = CODECS.parse("pixels")  # type: ignore[valid-type]
    text: TEXTS.field() = TEXTS.parse("transformer")  # type: ignore[valid-type]
    network: NETWORKS.field() = NETWORKS.parse("unet")  # type: ignore[valid-type]
    process: PROCESSES.field() = PROCESSES.parse("rectified-flow")  # type: ignore[valid-type]
    target: TARGETS.field() = TARGETS.parse("flow")  # type: ignore[valid-type]
    times: TIMES.field() = TIMES.parse("two-phase")  # type: ignore[valid-type]
    weighting: MinSNR | None = None
    train: Train
    sample: Sampling = Sampling()

    @model_validator(mode="after")
    def _well_posed(self) -> Recipe:
        self.target.check(self.process, t_max=self.times.t_max)
        return self


def builtin() -> dict[str, Path]:
    """Return the recipes that come with the package: name -> file."""
    folder = Path(str(resources.files("limner") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def locate(name: str) -> Path:
    """Return the file of a recipe: a built-in name, a YAML file, or a run folder (its config.yaml).

    Raises: ConfigError naming the nearest recipes.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"{name}: there is no such recipe file.")
        return path
    known = builtin()
    if name in known:
        return known[name]
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    raise ConfigError(f"there is no recipe {name!r}.{nearest(name, known)} Recipes: {', '.join(known)}; or a FILE.yaml.")


def find(name: str, overrides: list[str] | None = None) -> Recipe:
    """Return the recipe `name` (see `locate`) with overrides put in.

    Raises: ConfigError for unknown recipes, keys, values.
    """
    overrides = overrides or []
    path = locate(name)
    tree = read_yaml(path)
    given = {assignment.partition("=")[0] for assignment in overrides}
    train = tree.get("train")
    if isinstance(train, dict):  # one budget replaces the other
        if "train.seconds" in given and "train.images" not in given:
            train.pop("images", None)
        if "train.images" in given and "train.seconds" not in given:
            train.pop("seconds", None)
    return parse(override(tree, overrides), where=path.name)


def parse(tree: dict[str, Any], *, where: str = "recipe") -> Recipe:
    """Return the recipe that a mapping describes; users' own code (`kind: FILE.py:NAME`) is honoured.

    Raises: ConfigError, its first line naming `where`.
    """
    with own_code():
        try:
            return validate(Recipe, tree)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def to_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, every default written out."""
    return write_yaml(recipe.model_dump(mode="json"))
