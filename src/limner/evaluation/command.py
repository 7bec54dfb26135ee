"""What `limner train judge-...` does: trains a judge by name into a folder, and says how good it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from limner.config import override
from limner.errors import ConfigError
from limner.evaluation.judges import train_named

TELL_EVERY_SECONDS = 5.0


def train_judge(name: str, overrides: list[str], *, out: Path | None, cache: Path, say: Callable[[str], None]) -> None:
    """Train a judge by name (judge-digits, ...); `say` is told its progress and its accuracy on images it never saw.

    Raises: ConfigError for overrides that are no `key=value` or an `out` that is taken; EvaluationError for unknown judges.
    """
    folder = out or Path("runs") / name
    if folder.exists():
        raise ConfigError(f"--out {folder}: exists already; choose another.")
    changes = override({}, overrides)
    told = [time.monotonic()]

    def progress(share: float, loss: float) -> None:
        if time.monotonic() - told[0] > TELL_EVERY_SECONDS:
            told[0] = time.monotonic()
            say(f"{share:.0%}  loss {loss:.4f}")

    judge = train_named(name, folder, cache, progress=progress, **changes)
    say(f"judge: {folder}    {judge.describe()}")
