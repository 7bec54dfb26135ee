"""Averages of the weights with power-function profiles, kept from step 1, and any other width rebuilt afterwards.

    beta_n = (1 - 1/n)^(gamma + 1)          average <- beta_n·average + (1 - beta_n)·weights
    sigma_rel² = (gamma + 1) / ((gamma + 2)²·(gamma + 3))

Source: Karras et al. 2024, Section 3 and Appendix C. A fixed decay of 0.9999 ruins short runs; these scale with the run.
Next: `checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from limner.training.sharding import put


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent gamma >= -1/2 or so of a relative width: the positive root of Karras et al. 2024, Eq. 126.

    Raises: ValueError outside (0, 0.288).
    """
    if not 0 < sigma_rel < 0.288:
        raise ValueError(f"sigma_rel lies between 0 and 0.288, not {sigma_rel}")
    t = sigma_rel**-2
    roots = np.roots([1, 7, 16 - t, 12 - t])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-8))


class PowerEMA:
    """One average of named tensors.

    Arguments:
        parameters: name -> tensor; copied.
        sigma_rel: width relative to the training so far.
    """

    def __init__(self, parameters: Mapping[str, Tensor], sigma_rel: float) -> None:
        self.sigma_rel = sigma_rel
        self.gamma = gamma_of(sigma_rel)
        self.average = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        """Take in the weights after step `step` (1, 2, ...), in the order of the names given at the start."""
        weight = 1.0 - (1.0 - 1.0 / step) ** (self.gamma + 1)
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in parameters], weight)

    @property
    def name(self) -> str:
        """The stem of its files, such as `ema-0.05`; every width has its own, and it reads back as exactly that width."""
        short = f"{self.sigma_rel:.2f}"
        return f"ema-{short if float(short) == self.sigma_rel else repr(self.sigma_rel)}"

    def state_dict(self) -> dict[str, Tensor]:
        """Return name -> average."""
        return self.average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        for name, value in self.average.items():
            put(value, state[name])


def inner_product(step_a: float, gamma_a: float, step_b: float, gamma_b: float) -> float:
    """Return the inner product of two power profiles ending at steps a and b.

    Profile: p(t) = (gamma + 1)·t^gamma / end^(gamma + 1) on [0, end]. Source: Karras et al. 2024, Eq. 136 to 139.
    """
    shared = min(step_a, step_b)
    log_ratio = (gamma_a + gamma_b + 1) * np.log(shared) - (gamma_a + 1) * np.log(step_a) - (gamma_b + 1) * np.log(step_b)
    return float((gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * np.exp(log_ratio))


def posthoc_weights(snapshots: list[tuple[int, float]], step: int, sigma_rel: float) -> np.ndarray:
    """Return the weights [len(snapshots)] whose mix of stored averages is nearest to width `sigma_rel` at `step`.

    Arguments:
        snapshots: (step, sigma_rel) of each stored average.
    Least squares over profiles. Source: Karras et al. 2024, Algorithm 3.
    Differs: the weights sum to one exactly (a Lagrange multiplier). Without that, few snapshots shrink the network: by 12 % with
    two of each width and 0.15 wanted.
    """
    ends = [(float(s), gamma_of(width)) for s, width in snapshots]
    wanted = (float(step), gamma_of(sigma_rel))
    gram = np.array([[inner_product(*a, *b) for b in ends] for a in ends])
    right = np.array([inner_product(*a, *wanted) for a in ends])
    n = len(ends)
    system = np.block([[gram, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    return np.linalg.lstsq(system, np.append(right, 1.0), rcond=1e-12)[0][:n]


def mix(states: list[Mapping[str, Tensor]], weights: np.ndarray) -> dict[str, Tensor]:
    """Return the weighted sum of several states, in float32."""
    return {
        name: torch.stack([state[name].double() * w for state, w in zip(states, weights.tolist(), strict=True)]).sum(0).float()
        for name in states[0]
    }
