"""A grid fitted to a model: N times (and multistep coefficients) whose samples are nearest to a fine reference's.

From the same noises, a reference solver makes the targets X once; then the parameters p minimise the mean over images
of

    2·d²·(sqrt(1 + e²/d²) - 1) + ridge,  e = root mean square of sample(p) - X, d = the median e of the start
    (pseudo-Huber)

by Levenberg-Marquardt with differences for the Jacobian. A few images fall into another basin whatever the grid is:
they must not decide it, hence d. The ridge holds parameters that matter little near the start. Any `Denoise` will do:
guided, quantised, without gradients. Parameters:

    times          t_0 is fixed; the step lengths are softmax(theta) of it, so that the times always fall to 0
    coefficients   each step's weights of the velocities sum to 1 (a constant velocity stays exact); all but the first
    are free

It is deterministic, starts from the two best of the fixed grids, and reports its error on noises it was not fitted to.
Source: the idea of learning steps and coefficients against a fine solver, Watson et al. 2021 and Frankel et al. 2025
(S4S).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from limner.errors import ConfigError, LimnerError, NumericalError
from limner.process import Process
from limner.process.times import GRIDS, FittedGrid, make_grid
from limner.samplers import get_sampler, start
from limner.samplers_plan import adams_flow, knots
from limner.types import Denoise

ORDERS = {"ab2": 2, "ab3": 3}
"""The samplers whose coefficients can be learned, and how many velocities a step of theirs has at most."""

RIDGE = 0.03
"""What a parameter pays for leaving its start by 1, as a part of the start's error."""

STARTS = 2
"""From how many of the best fixed grids times are learned."""

CANDIDATES: tuple[Any, ...] = (
    *GRIDS,
    {"kind": "shifted", "a": 2.0},
    {"kind": "shifted", "a": 0.5},
    {"kind": "shifted", "a": 1 / 3},
)
"""The fixed grids that a fit starts from, and is compared with."""


@dataclass(frozen=True)
class _Problem:
    """One fitting problem: parameters [P] -> residual of the samples."""

    denoise: Denoise
    process: Process
    noises: Tensor
    reference: Tensor
    sampler: str
    num_steps: int
    t_max: float
    rows: tuple[int, ...] = ()  # free coefficients of each step; none when they are the sampler's own
    centre: Tensor | float = 0.0  # the parameters of the start
    scale: float = 1.0
    ridge: float = 0.0

    def split(self, p: Tensor) -> tuple[Tensor, list[list[float]] | None]:
        """Return the times and coefficients that parameters stand for."""
        lengths = torch.softmax(torch.cat([p.new_zeros(1), p[: self.num_steps - 1]]), 0) * self.t_max
        times = torch.cat([lengths.flip(0).cumsum(0).flip(0), p.new_zeros(1)])
        times[0] = self.t_max
        if not self.rows:
            return times, None
        free = iter(p[self.num_steps - 1 :].tolist())
        rows = []
        for num in self.rows:
            others = [next(free) for _ in range(num)]
            rows.append([1 - sum(others), *others])
        return times, rows

    def join(self, times: Tensor, coefficients: Sequence[Sequence[float]] | None) -> Tensor:
        """Return the parameters of times and coefficients: the inverse of `split`."""
        lengths = (times[:-1] - times[1:]).log()
        parts = [lengths[1:] - lengths[0]]
        if self.rows and coefficients is not None:
            parts.append(torch.tensor([c for row in coefficients for c in row[1:]], dtype=torch.float64))
        return torch.cat(parts)

    def around(self, times: Tensor, coefficients: Sequence[Sequence[float]] | None) -> _Problem:
        """Return the problem with scale and ridge measured at a start."""
        error = (self.sample(times, coefficients) - self.reference).double().flatten(1)
        scale = max(float(error.square().mean(1).sqrt().median()), 1e-12)
        return replace(self, centre=self.join(times, coefficients), scale=scale, ridge=RIDGE * scale)

    def sample(self, times: Tensor, coefficients: Sequence[Sequence[float]] | None) -> Tensor:
        options = {} if coefficients is None else {"coefficients": coefficients}
        return _sample(self.denoise, self.process, self.noises, times, self.sampler, options)

    def residual(self, p: Tensor) -> Tensor:
        """Return the vector whose squared length is the mean pseudo-Huber loss plus the ridge, in float64."""
        error = (self.sample(*self.split(p)) - self.reference).double().flatten(1)
        ratio = error.square().mean(1) / self.scale**2
        shrink = torch.where(ratio > 1e-8, 2 * ((1 + ratio).sqrt() - 1) / ratio.clamp_min(1e-8), 1.0).sqrt()
        return torch.cat([(error * shrink[:, None]).flatten() / error.numel() ** 0.5, self.ridge * (p - self.centre)])


def fit_grid(
    denoise: Denoise,
    process: Process,
    noises: Tensor,
    num_steps: int,
    *,
    sampler: str = "abm",
    reference_steps: int = 50,
    reference: str = "heun",
    check: Denoise | None = None,
    learn_coefficients: bool = False,
    t_max: float = 1.0,
    iterations: int = 12,
    report: Callable[[int, float], None] | None = None,
) -> FittedGrid:
    """Return the grid of `num_steps` steps fitted to a denoiser.

    Arguments:
        denoise, check: for noises[0::2], which are fitted to, and for noises[1::2], which report the error and choose among fits;
            `check` is needed where a denoiser belongs to its rows, as under prompts.
        noises: [B, C, H, W] standard normal.
        sampler: any deterministic one; `ab2` or `ab3` when coefficients are learned.
        reference_steps, reference: steps and name of the fine solver, on the uniform grid: 50 of Heun are 99
            evaluations.
        iterations: of Levenberg-Marquardt; each costs about 2·num_steps runs, with coefficients (ab2) 4·num_steps;
            there are two fits of times, and one more with coefficients.
        report: called with the iteration and the error so far.

    Raises: ConfigError for a stochastic sampler, coefficients where a sampler has none, or fewer than 2 noises;
        NumericalError when the reference is not finite.
    """
    chosen = get_sampler(sampler)
    if chosen.stochastic:
        raise ConfigError(f"fit-grid: sampler {sampler!r} is stochastic; a grid is fitted with a deterministic one, such as ab2.")
    if learn_coefficients and sampler not in ORDERS:
        raise ConfigError(f"fit-grid: coefficients can be learned for {' and '.join(ORDERS)} only, not for {sampler!r}.")
    if len(noises) < 2:
        raise ConfigError("fit-grid: needs at least 2 noises: half to fit, half to check.")
    with torch.no_grad():
        fine = make_grid("uniform", process, reference_steps, t_max=t_max)
        problems = []
        for half, answer in enumerate((denoise, check or denoise)):
            mine = noises[half::2]
            target = _sample(answer, process, mine, fine, reference, {})
            if not bool(torch.isfinite(target).all()):
                raise NumericalError("fit-grid: the reference samples are not finite; the model's answers are not numbers.")
            problems.append(_Problem(answer, process, mine, target, sampler, num_steps, t_max))
        return _fit(problems[0], problems[1], learn_coefficients, iterations, report)


def _fit(
    train: _Problem,
    check: _Problem,
    learn_coefficients: bool,
    iterations: int,
    report: Callable[[int, float], None] | None,
) -> FittedGrid:
    """Fit times, then (from there) coefficients with them; keep what is best on the half that was not fitted to."""
    process, sampler, num_steps = train.process, train.sampler, train.num_steps
    grids = (_try_grid(grid, process, num_steps, train.t_max) for grid in CANDIDATES)
    fixed = [times for times in grids if times is not None]
    begins = sorted(fixed, key=lambda times: _rms(train, times, None))[:STARTS]
    found: list[tuple[float, Tensor, list[list[float]] | None]] = [(_rms(check, times, None), times, None) for times in fixed]
    baseline = min(error for error, _, _ in found)
    for first in begins:
        times, _ = train.split(_levenberg(train.around(first, None), train.join(first, None), iterations, report))
        found.append((_rms(check, times, None), times, None))
    times = min(found, key=lambda item: item[0])[1]
    if learn_coefficients:
        rows = tuple(min(i, ORDERS[sampler] - 1) for i in range(num_steps))
        both, begin = replace(train, rows=rows), _adams(times, process, rows)
        p = _levenberg(both.around(times, begin), both.join(times, begin), iterations, report)
        times, coefficients = both.split(p)
        found.append((_rms(check, times, coefficients), times, coefficients))
    error, times, coefficients = min(found, key=lambda item: item[0])
    return FittedGrid(
        sampler=sampler,
        times=tuple(times.tolist()),
        coefficients=None if coefficients is None else tuple(map(tuple, coefficients)),
        error=error,
        baseline=baseline,
    )


def _sample(denoise: Denoise, process: Process, noises: Tensor, times: Tensor, sampler: str, options: dict[str, Any]) -> Tensor:
    x = start(process, None, noises, float(times[0]))
    for step in get_sampler(sampler)(denoise, x, times, process, **options):
        x = step.x
    return x


def _rms(problem: _Problem, times: Tensor, coefficients: Sequence[Sequence[float]] | None) -> float:
    return float((problem.sample(times, coefficients) - problem.reference).double().square().mean().sqrt())


def _try_grid(grid: Any, process: Process, num_steps: int, t_max: float) -> Tensor | None:
    """Return the fixed grid from exactly t_max, or None where it has none of that many steps."""
    try:
        times = make_grid(grid, process, num_steps, t_max=t_max)
    except ConfigError:
        return None
    times[0] = t_max
    return times if bool((times[1:] < times[:-1]).all()) else None


def _adams(times: Tensor, process: Process, rows: tuple[int, ...]) -> list[list[float]]:
    """Return Adams' own coefficients on these times, in units of the step."""
    k = knots(process, times)
    plan = adams_flow(k, order=max(rows) + 1)
    return [[w / k.total[i + 1] / (k.tau[i + 1] - k.tau[i]) for w in row.weights] for i, row in enumerate(plan)]


def _levenberg(
    problem: _Problem, p: Tensor, iterations: int, report: Callable[[int, float], None] | None, step: float = 1e-2
) -> Tensor:
    """Return parameters that minimise |residual|², from p: Levenberg-Marquardt with central differences.

    Source: Nocedal & Wright 2006, Section 10.3.
    """
    residual = problem.residual(p)
    damping = 1e-2
    for iteration in range(iterations):
        if not len(p):
            break
        basis = torch.eye(len(p), dtype=p.dtype) * step
        jacobian = torch.stack([(problem.residual(p + e) - problem.residual(p - e)) / (2 * step) for e in basis], 1)
        normal, slope = jacobian.T @ jacobian, jacobian.T @ residual
        before = float(residual.square().sum())
        for _ in range(6):
            change = torch.linalg.solve(normal + damping * normal.diagonal().clamp_min(1e-12).diag(), slope)
            try:
                trial = problem.residual(p - change)
            except LimnerError:  # two times fell together
                trial = residual * torch.inf
            if float(trial.square().sum()) < before:
                p, residual, damping = p - change, trial, damping / 4
                break
            damping *= 6
        else:
            break
        if report is not None:
            report(iteration, before**0.5)
        if before - float(residual.square().sum()) < 1e-4 * before:
            break
    return p
