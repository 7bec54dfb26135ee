"""How to sample: the sampler, its steps, the guidance. Defaults live in a recipe and travel with the model. Next: `generate.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from limner.config import Config
from limner.errors import ConfigError


class Sampling(Config):
    """One way of sampling.

    Arguments:
        sampler: a name from `samplers.SAMPLERS`.
        steps: solver steps.
        grid: how the steps lie in time: uniform, trailing, karras or shifted.
        guidance: classifier-free guidance w; 0 unconditional, 1 conditional, above 1 guided.
        interval: times t between which guidance is applied; elsewhere only the conditional half is run.
        rescale: share by which the guided result's spread is put back to the conditional one's.
        eta: noise of `ddim`, from 0 (none) to 1 (as DDPM).
        clip: whether predicted data are clipped to the pixels' range at each step.
    """

    sampler: str = "ab2"
    steps: int = Field(10, ge=1, le=10_000)
    grid: Literal["uniform", "trailing", "karras", "shifted"] = "uniform"
    guidance: float = Field(2.0, ge=-100, le=1000)
    interval: tuple[float, float] = (0.1, 0.9)
    rescale: float = Field(0.0, ge=0, le=1)
    eta: float = Field(0.0, ge=0, le=1)
    clip: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Sampling:
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ConfigError(f"interval: two times 0 <= low < high <= 1, such as [0.1, 0.9], not {list(self.interval)}.")
        return self
