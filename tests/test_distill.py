"""A student of few steps lands nearer to its teacher's fine paths than its teacher does, and is an ordinary run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from limner.distill import Budget, Options, distill, distill_command
from limner.distilling import fit
from limner.distilling.fit import chord_losses
from limner.distilling.paths import SOLVER_STEPS, flow_times, student_sampling, student_times, teacher_paths
from limner.errors import CheckpointError, ConfigError, NumericalError
from limner.generate import changed, guided, initial_noise
from limner.model import Model, load
from limner.process.schedules import Cosine, LinearBeta, RectifiedFlow, ScaledLinearBeta
from limner.process.targets import X0, Eps, Flow, V
from limner.process.times import make_grid
from limner.samplers import SAMPLERS, start

PROMPTS = [f"a handwritten digit {digit}" for digit in range(10)]
GUIDANCE = 3.0
PROCESSES = pytest.mark.parametrize("process", [RectifiedFlow(), Cosine(), LinearBeta(), ScaledLinearBeta()], ids=str)


def sampled(model: Model, sampler: str, grid: Any, steps: int, guidance: float) -> Tensor:
    """Return latents of 20 pictures."""
    prompts = PROMPTS * 2
    sampling = changed(model.config.sample, {"sampler": "euler", "steps": steps, "grid": "uniform"})
    sampling = changed(sampling, {"guidance": guidance, "interval": (0.0, 1.0)})
    eps, _ = initial_noise(range(900, 920), model.latent_shape)
    times = make_grid(grid, model.process, steps)
    x = start(model.process, None, eps, float(times[0]))
    *_, last = SAMPLERS[sampler](guided(model, prompts, sampling), x, times, model.process)
    return last.x


@pytest.fixture(scope="module")
def student(model: Model) -> Model:
    """Return a student of two steps of the tiny run, under guidance that bends its paths."""
    options = Options(batch=32, lr=2e-3)
    return distill(model, PROMPTS, steps=2, budget=Budget(images=2400), guidance=GUIDANCE, options=options).model


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a student of two steps, hardly trained. Read only."""
    out = tmp_path_factory.mktemp("students") / "student"
    return distill_command(trained, steps=2, images=64, out=out, precision="fp32")


# ---------------------------------------------------------------------------------------------------- what it learns


@PROCESSES
def test_times_are_even_in_the_flow_and_a_student_stands_on_some_of_the_teachers(process: Any) -> None:
    fine = flow_times(process, SOLVER_STEPS)
    tau = process.sigma(fine) / (process.alpha(fine) + process.sigma(fine))
    assert float((tau.diff() - tau.diff().mean()).abs().max()) < 1e-9
    for steps in (1, 2, 4):
        own, same = student_times(process, steps)
        assert len(own) == steps + 1 and torch.equal(same, fine) and set(own.tolist()) <= set(fine.tolist())
        assert student_sampling(own).steps == steps and student_sampling(own).guidance == 1


@PROCESSES
@pytest.mark.parametrize("target", [X0(), Eps(), V(), Flow()], ids=str)
def test_a_network_without_loss_lands_where_the_chord_ends(process: Any, target: Any) -> None:
    t_max = 0.9  # eps is ill-posed where alpha = 0
    times, _ = student_times(process, 2, t_max=t_max)
    torch.manual_seed(0)
    z, z_next = torch.randn(2, 5, 1, 4, 4).double()
    t, t_next = times[0].expand(5), times[1].expand(5)
    scale = process.alpha(times) + process.sigma(times)
    tau = process.sigma(times) / scale
    x0 = z - tau[0] * (z - z_next) / (tau[0] - tau[1])
    x = z * scale[0]
    eps = (x - process.alpha(t)[0] * x0) / process.sigma(t)[0]
    y = target.of(process, x0, eps, t)

    perfect: Any = SimpleNamespace(
        process=process, target=target, network=lambda x, t, asked: y, device=torch.device("cpu"), precision="fp32"
    )
    nothing: Any = None
    assert float(chord_losses(perfect, z, z_next, t, t_next, nothing).max()) < 1e-8
    *_, last = SAMPLERS["euler"](lambda x_t, t: x0, x, times[:2], process)
    assert float((last.x / scale[1] - z_next).abs().max()) < 1e-6


def test_two_steps_of_the_student_are_nearer_to_the_fine_path_than_two_of_its_teacher(model: Model, student: Model) -> None:
    fine = sampled(model, "ab2", "uniform", 30, GUIDANCE)
    teachers = min(float((sampled(model, sampler, "uniform", 2, GUIDANCE) - fine).square().mean()) for sampler in ("euler", "ab2"))
    own = student.config.sample
    students = float((sampled(student, "euler", own.grid, 2, 1.0) - fine).square().mean())
    assert students < 0.5 * teachers


def test_kept_states_are_on_the_solvers_path(model: Model) -> None:
    sampling = changed(model.config.sample, {"guidance": GUIDANCE})
    eps, _ = initial_noise(range(4), model.latent_shape)
    _, fine = student_times(model.process, 2)
    every = teacher_paths(model, PROMPTS[:4], sampling, fine, eps, kept=range(SOLVER_STEPS + 1))
    some = teacher_paths(model, PROMPTS[:4], sampling, fine, eps, kept=(0, 3, 8))
    assert torch.equal(every[:, [0, 3, 8]], some) and torch.equal(some[:, 0], eps)


def test_a_budget_of_images_gives_the_same_student_twice_and_leaves_the_teacher_alone(model: Model) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    options = Options(batch=16, seed=3)
    states = [
        distill(model, PROMPTS, steps=1, budget=Budget(images=64), options=options).model.network.state_dict() for _ in range(2)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in states[0].items())


def test_a_budget_of_seconds_is_kept(model: Model) -> None:
    done = distill(model, PROMPTS, steps=4, budget=Budget(seconds=1.0), options=Options(batch=8))
    assert 1.0 <= done.facts["seconds"] < 4.0
    assert done.facts["paths_seconds"] < done.facts["seconds"]
    assert len(done.metrics[-1]["loss_segments"]) == 4


# ---------------------------------------------------------------------------------------------------- the run


def test_the_students_run_loads_and_takes_two_evaluations_a_picture(folder: Path) -> None:
    from limner.evaluation.run import make

    model = load(folder, precision="fp32")
    made = make(model, PROMPTS[:3], torch.zeros(3).numpy(), model.config.sample, batch_size=2)
    assert made.images.shape == (3, 1, 28, 28) and made.evaluations == 2
    assert len(model.generate("a handwritten digit 4", num=2)) == 2


def test_the_students_run_says_what_it_was_made_from(folder: Path, trained: Path) -> None:
    from limner.recipe import find

    document = json.loads((folder / "model" / "model.json").read_text())
    finished = json.loads((folder / "finished.json").read_text())
    teacher = json.loads((trained / "model" / "model.json").read_text())
    assert document["provenance"]["distilled"]["teacher"] == teacher["weights_sha256"] == finished["teacher"]
    assert finished["model"] == document["weights_sha256"] != teacher["weights_sha256"]
    assert find(str(folder)).data == find(str(trained)).data
    assert find(str(folder)).sample == load(folder, precision="fp32").config.sample
    assert all(line["step"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def test_another_process_target_and_codec_make_a_student_too(make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    from limner.training.loop import train

    changes = ["process={kind: cosine}", "target={kind: v}", "codec={kind: patches}"]
    recipe = make_recipe(*changes, "network.patch=1", "train.images=32", "train.checkpoint_images=null")
    for _ in train(recipe, tmp_path / "teacher", cache=cache):
        pass
    out = distill_command(tmp_path / "teacher", steps=4, images=32, out=tmp_path / "student", precision="fp32")
    model = load(out, precision="fp32")
    assert model.config.process.kind == "cosine" and model.config.sample.steps == 4
    assert model.config.sample.grid.times[0] == 1.0  # type: ignore[union-attr]
    assert len(model.generate("a handwritten digit 3")) == 1


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("steps", [0, 3, 8])
def test_other_steps_are_refused(trained: Path, tmp_path: Path, steps: int) -> None:
    with pytest.raises(ConfigError, match="1, 2 or 4"):
        distill_command(trained, steps=steps, images=64, out=tmp_path / "out")


def test_a_run_without_a_model_and_a_model_without_a_run_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "alone")
    with pytest.raises(CheckpointError, match="without its run"):
        distill_command(tmp_path / "alone", images=64, out=tmp_path / "out")
    shutil.rmtree(run / "model")
    with pytest.raises(CheckpointError, match="no model yet"):
        distill_command(run, images=64, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_taken_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for name in ("file", "full", "file/below"):
        with pytest.raises(ConfigError, match="--out"):
            distill_command(trained, images=64, out=tmp_path / name)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("budget", [{}, {"seconds": 1.0, "images": 5}, {"images": 0}, {"seconds": float("nan")}])
def test_a_budget_is_one_number_above_zero(budget: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget(**budget)


def test_a_student_is_no_teacher(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="student already"):
        distill_command(folder, images=64, out=tmp_path / "out")


def test_without_prompts_there_is_nothing_to_teach(model: Model) -> None:
    with pytest.raises(ConfigError, match="no prompts"):
        distill(model, [], steps=2, budget=Budget(images=64))


def test_numbers_that_are_not_finite_stop_it_and_nothing_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(trained, precision="fp32")
    broken = next(iter(model.network.parameters()))
    with torch.no_grad():
        broken.fill_(torch.nan)
    with pytest.raises(NumericalError, match="not finite"):
        distill(model, PROMPTS, steps=2, budget=Budget(images=64))
    monkeypatch.setattr(fit, "chord_losses", lambda student, z, *others: z.flatten(1).mean(1).requires_grad_() * torch.inf)
    with pytest.raises(NumericalError, match="not finite at step 1"):
        distill_command(trained, images=64, out=tmp_path / "out", precision="fp32")
    assert not (tmp_path / "out").exists()
