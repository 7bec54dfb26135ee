"""Other averages of a run's weights: any EMA width rebuilt from its snapshots, and the weak model of autoguidance."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from limner.errors import CheckpointError, ConfigError
from limner.model import Model, assemble, put_weights
from limner.training import checkpoint
from limner.training.ema import mix, posthoc_weights


def rebuilt(run: Path, width: float) -> dict[str, Tensor]:
    """Return the average of width sigma_rel at the end of a run, from its stored snapshots, by least squares.

    Raises: CheckpointError without snapshots; ConfigError for a width outside (0, 0.28).
    """
    if not 0 < width < 0.28:
        raise ConfigError(f"--ema {width}: a width sigma_rel between 0 and 0.28, such as 0.10.")
    found = checkpoint.snapshots(run)
    if not found:
        raise CheckpointError(f"{run}: no snapshots to rebuild other EMA widths from; train with train.snapshots above 0.")
    last = max(step for step, _, _ in found)
    weights = posthoc_weights([(step, sigma) for step, sigma, _ in found], last, width)
    return mix([load_file(path) for _, _, path in found], weights)


def put_ema(model: Model, run: Path, ema: str) -> None:
    """Put another average into a model: a width such as "0.15", or "raw" for the weights of the newest checkpoint.

    Raises: ConfigError for anything else; CheckpointError when the run has not kept what is needed.
    """
    run = Path(run)
    if ema == "raw":
        found, _ = checkpoint.latest(run)
        if found is None:
            raise CheckpointError(f"{run}: no checkpoint to take the raw weights from.")
        state = checkpoint.load(found)[0]["learner"]
    else:
        try:
            width = float(ema)
        except ValueError as error:
            raise ConfigError(f"--ema {ema!r}: a width sigma_rel such as 0.10, or raw.") from error
        state = rebuilt(run, width)
    _put(model, state, f"{run} with --ema {ema}")


def weak_model(model: Model, run: Path) -> Model:
    """Return the model of a run's earliest snapshot, of its widest average. Source: Karras et al. 2024b, Section 4.

    Raises: CheckpointError without snapshots.
    """
    found = checkpoint.snapshots(Path(run))
    if not found:
        raise CheckpointError(f"{run}: autoguidance needs an earlier snapshot of the run; train with train.snapshots above 0.")
    first = min(step for step, _, _ in found)
    path = max((sigma, path) for step, sigma, path in found if step == first)[1]
    import copy

    weak = assemble(model.config, copy.deepcopy(model.text), precision=model.precision, sha256="")
    _put(weak, load_file(path), str(path))
    return weak.to(model.device)  # type: ignore[arg-type]


def _put(model: Model, state: dict[str, Tensor], where: str) -> None:
    """Put named parameters over a model's; frozen ones that were not averaged stay."""
    full = {f"text.{k}": v for k, v in model.text.state_dict().items()}
    full |= {f"network.{k}": v for k, v in model.network.state_dict().items()}
    put_weights(model, full | {k: v for k, v in state.items() if k in full}, where=where)
