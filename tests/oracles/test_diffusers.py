"""diffusers' schedulers as a second opinion: tables, noising, velocity and single steps.

Their step n of N is our t = (n + 1)/N under `Tabulated`. Their schedulers keep single precision, which sets the
tolerances.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from limner.process.schedules import LinearBeta, RectifiedFlow, ScaledLinearBeta, Tabulated
from limner.process.targets import V
from limner.samplers import SAMPLERS
from limner.samplers_plan import adams_log_snr, knots

diffusers = pytest.importorskip("diffusers")

SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {},
}
each = pytest.mark.parametrize("schedule", SETTINGS)
N = 1000
GENERATOR = torch.Generator().manual_seed(0)
X0, EPS, X = torch.randn(3, 4, 1, 3, 3, generator=GENERATOR)


def ours(schedule: str, **options: Any) -> Tabulated:
    return Tabulated(schedule=schedule, **SETTINGS[schedule], **options)  # type: ignore[arg-type]


def theirs(cls: str, schedule: str, **options: Any) -> Any:
    return getattr(diffusers, cls)(num_train_timesteps=N, beta_schedule=schedule, **SETTINGS[schedule], **options)


def time(n: Tensor | int) -> Tensor:
    return (torch.as_tensor(n, dtype=torch.float64) + 1) / N


@each
def test_the_tables_of_betas_agree(schedule: str) -> None:
    assert (ours(schedule).table() - theirs("DDPMScheduler", schedule).betas).abs().max() < 1e-8 + 6e-8


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_the_tables_rescaled_to_no_terminal_signal_agree(schedule: str) -> None:
    scheduler = theirs("DDIMScheduler", schedule, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    n = torch.arange(N)
    process = ours(schedule, zero_terminal_snr=True)
    assert (process.alpha(time(n)) - scheduler.alphas_cumprod.sqrt()).abs().max() < 2e-5
    assert process.alpha(time(N - 1)).item() == 0


@each
def test_noise_is_added_alike(schedule: str) -> None:
    n = torch.tensor([0, 10, 500, 999])
    expected = theirs("DDPMScheduler", schedule).add_noise(X0, EPS, n)
    assert (ours(schedule).add_noise(X0, EPS, time(n)) - expected).abs().max() < 5e-6


@each
def test_the_velocity_is_the_same(schedule: str) -> None:
    n = torch.tensor([0, 10, 500, 999])
    expected = theirs("DDPMScheduler", schedule).get_velocity(X0, EPS, n)
    assert (V().of(ours(schedule), X0, EPS, time(n)) - expected).abs().max() < 5e-6


def test_linear_beta_is_within_a_thousandth_of_its_table() -> None:
    alphas = theirs("DDPMScheduler", "linear").alphas_cumprod.sqrt()
    assert (LinearBeta().alpha(time(torch.arange(N))) - alphas).abs().max() < 1e-3


def test_scaled_linear_beta_is_within_a_thousandth_of_its_table() -> None:
    alphas = theirs("DDPMScheduler", "scaled_linear").alphas_cumprod.sqrt()
    assert (ScaledLinearBeta().alpha(time(torch.arange(N))) - alphas).abs().max() < 1e-3


def one_step(name: str, process: Any, n: int, before: int, **options: Any) -> Tensor:
    """Return our state at table step `before` from X at table step n, when the network's noise is EPS."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - process.sigma(t[:1].double()) * EPS) / process.alpha(t[:1].double())

    times = torch.stack([time(n), time(before)])
    *_, step = SAMPLERS[name](denoise, X.double(), times, process, **options)
    return step.x


@each
@pytest.mark.parametrize("strided", [1, 50])
def test_a_ddpm_step_agrees_in_its_mean_and_in_its_noise(schedule: str, strided: int) -> None:
    scheduler = theirs("DDPMScheduler", schedule, clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(N // strided)
    n = 500
    expected = scheduler.step(EPS, n, X, generator=torch.Generator().manual_seed(3)).prev_sample
    z = torch.randn(X.shape, generator=torch.Generator().manual_seed(3))
    found = one_step("ddpm", ours(schedule), n, n - strided, noise=lambda: z.double())
    assert (found - expected).abs().max() < 2e-5


@each
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_step_agrees(schedule: str, eta: float) -> None:
    scheduler = theirs("DDIMScheduler", schedule, clip_sample=False)
    scheduler.set_timesteps(20)
    n = 500
    expected = scheduler.step(EPS, n, X, eta=eta, generator=torch.Generator().manual_seed(3)).prev_sample
    z = torch.randn(X.shape, generator=torch.Generator().manual_seed(3))
    found = one_step("ddim", ours(schedule), n, n - 50, noise=lambda: z.double(), eta=eta)
    assert (found - expected).abs().max() < 2e-5


def walk(scheduler: Any, num_steps: int) -> tuple[Tensor, list[Tensor]]:
    """Return the times [num_steps] of a multistep scheduler and its states after every step of a smooth network."""
    scheduler.set_timesteps(num_steps)
    x, states = X, []
    for n in scheduler.timesteps:
        x = scheduler.step(network(x, time(n).item()), n, x).prev_sample
        states.append(x)
    return time(scheduler.timesteps), states


def network(x_t: Tensor, t: float) -> Tensor:
    """Return a made-up prediction of the noise, smooth in x and t."""
    return torch.tanh(x_t) * (0.3 + 0.7 * t) + 0.2 * (1 - t)


def ours_walk(name: str, process: Any, times: Tensor, **options: Any) -> list[Tensor]:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        clock = t[:1].double()
        return (x_t - process.sigma(clock) * network(x_t, clock.item())) / process.alpha(clock)

    grid = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    return [step.x for step in SAMPLERS[name](denoise, X.double(), grid, process, **options)]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_dpm_solver_2m_agrees_step_by_step(schedule: str) -> None:
    scheduler = theirs("DPMSolverMultistepScheduler", schedule, solver_order=2, final_sigmas_type="zero")
    times, states = walk(scheduler, 12)
    for found, expected in zip(ours_walk("dpmpp-2m", ours(schedule), times), states, strict=True):
        assert (found - expected).abs().max() < 5e-5 * expected.abs().max()


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_the_sde_form_of_dpm_solver_2m_agrees_step_by_step(schedule: str) -> None:
    scheduler = theirs(
        "DPMSolverMultistepScheduler",
        schedule,
        solver_order=2,
        algorithm_type="sde-dpmsolver++",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(12)
    generators = [torch.Generator().manual_seed(9) for _ in range(2)]
    x, states = X, []
    for n in scheduler.timesteps:
        x = scheduler.step(network(x, time(n).item()), n, x, generator=generators[0]).prev_sample
        states.append(x)
    found = ours_walk(
        "dpmpp-2m-sde",
        ours(schedule),
        time(scheduler.timesteps),
        noise=lambda: torch.randn(X.shape, generator=generators[1]).double(),
    )
    for one, expected in zip(found, states, strict=True):
        assert (one - expected).abs().max() < 5e-5 * expected.abs().max()


def test_predictor_and_corrector_of_unipc_agree_given_the_same_history() -> None:
    """At full history: in the first steps theirs takes 1/2 where ours solves the condition."""
    num_steps, i = 20, 9
    scheduler = theirs("UniPCMultistepScheduler", "linear", solver_order=3, final_sigmas_type="zero")
    scheduler.set_timesteps(num_steps)
    times = torch.cat([time(scheduler.timesteps), torch.zeros(1, dtype=torch.float64)])
    row, after = adams_log_snr(knots(ours("linear"), times), order=3, correct=num_steps)[i : i + 2]
    history = list(torch.randn(4, *X.shape, generator=torch.Generator().manual_seed(5)))  # newest first; [0] is at the step's end

    scheduler._step_index = i
    scheduler.model_outputs = [history[3], history[2], history[1]]
    expected = scheduler.multistep_uni_p_bh_update(history[1], sample=X, order=3)
    found = row.carry * X + sum(w * m for w, m in zip(row.weights, history[1:], strict=True))
    assert (found - expected).abs().max() < 1e-4

    scheduler._step_index = i + 1
    expected = scheduler.multistep_uni_c_bh_update(history[0], last_sample=X, this_sample=expected, order=3)
    assert after.correction is not None
    carry, weights = after.correction
    found = carry * X + sum(w * m for w, m in zip(weights, history, strict=True))
    assert (found - expected).abs().max() < 1e-4


def test_euler_agrees_with_flow_matching() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=N)
    scheduler.set_timesteps(8)
    process = RectifiedFlow()
    x, states = X, []
    for n, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(network(x, float(sigma)), n, x).prev_sample
        states.append(x)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return x_t - t[0] * network(x_t, t[0].item())

    found = SAMPLERS["euler"](denoise, X.double(), scheduler.sigmas.double(), process)
    for step, expected in zip(found, states, strict=True):
        assert (step.x - expected).abs().max() < 1e-5
