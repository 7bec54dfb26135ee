"""How to sample: the sampler, its steps, the guidance. Defaults live in a recipe and travel with the model. Next: `generate.py`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from limner.config import Config, validate
from limner.errors import ConfigError, nearest
from limner.process import RectifiedFlow
from limner.process.times import GRIDS, FittedGrid, make_grid


def _grid(value: Any) -> Any:
    """Return a grid's name, a mapping of its kind and options, or the FittedGrid of a mapping."""
    if isinstance(value, FittedGrid):
        return value
    if isinstance(value, dict) and value.get("kind") == "fitted":
        return validate(FittedGrid, value, where="grid")
    name = value.get("kind") if isinstance(value, dict) else value
    if not isinstance(name, str) or name not in GRIDS:
        raise ConfigError(f"grid: there is no {name!r}.{nearest(str(name), GRIDS)} Allowed: {', '.join(GRIDS)}, or a fitted grid.")
    make_grid(value, RectifiedFlow(), 4)  # refuses unknown options
    return value


class Sampling(Config):
    """One way of sampling.

    Arguments:
        sampler: a name from `samplers.SAMPLERS`.
        steps: solver steps.
        grid: how the steps lie in time: uniform, trailing, karras, shifted (or {kind: shifted, a: 0.6}), or fitted to the model.
        guidance: the scale w; 0 unconditional, 1 conditional, above 1 guided.
        guidance_kind: cfg, cfg-zero, apg, or auto (an earlier snapshot of the run in place of the unconditional half).
        interval: times t between which guidance is applied; elsewhere only the conditional half is run.
        rescale: share by which the guided result's spread is put back to the conditional one's (cfg only).
        eta: noise of `ddim`, from 0 (none) to 1 (as DDPM).
        clip: whether predicted data are clipped to the pixels' range at each step.
    """

    sampler: str = "ab2"
    steps: int = Field(10, ge=1, le=10_000)
    grid: Annotated[str | dict[str, Any] | FittedGrid, BeforeValidator(_grid)] = "uniform"
    guidance: float = Field(2.0, ge=-100, le=1000)
    guidance_kind: Literal["cfg", "cfg-zero", "apg", "auto"] = "cfg"
    interval: tuple[float, float] = (0.1, 0.9)
    rescale: float = Field(0.0, ge=0, le=1)
    eta: float = Field(0.0, ge=0, le=1)
    clip: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Sampling:
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ConfigError(f"interval: two times 0 <= low < high <= 1, such as [0.1, 0.9], not {list(self.interval)}.")
        if isinstance(self.grid, FittedGrid) and self.grid.num_steps != self.steps:
            raise ConfigError(f"grid: it was fitted for {self.grid.num_steps} steps, and steps is {self.steps}.")
        if isinstance(self.grid, FittedGrid) and self.grid.sampler != self.sampler:
            raise ConfigError(f"grid: it was fitted for the sampler {self.grid.sampler}, and sampler is {self.sampler}.")
        if self.eta and self.sampler != "ddim":
            raise ConfigError(f"eta: only the sampler ddim has it, and sampler is {self.sampler}.")
        if self.rescale and self.guidance_kind != "cfg":
            raise ConfigError(f"rescale: only guidance_kind cfg has it, and guidance_kind is {self.guidance_kind}.")
        return self
