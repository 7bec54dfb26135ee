"""Every error that limner raises on purpose, so that a user reads one clear message and never a traceback.

    LimnerError                 what was given, what is allowed, what to do; the command line exits with 2
    ├── ConfigError             a recipe, a key, a value or an override
    ├── DataError               images, captions, archives, stores
    ├── PromptError             a prompt that the model cannot be asked
    ├── CheckpointError         a run, model or checkpoint folder: missing, damaged or of another kind
    ├── NumericalError          a loss, gradient or weight that is not finite
    ├── EvaluationError         scores that would not mean what they say
    ├── MissingError            a library, program or file that has to be installed or fetched first
    └── ClusterError            Slurm, SSH and Jupyter

Messages are written for the person at the terminal: at most ten lines, the culprit named first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimnerError(Exception):
    """Anything that a user can mend; `str(error)` is the whole message. The command line exits with `exit_code`."""

    exit_code = 2


class ConfigError(LimnerError):
    """A recipe, a key, a value or an override that cannot be used."""


class DataError(LimnerError):
    """Images, captions, archives or stores that cannot be read or do not fit."""


class PromptError(LimnerError):
    """A prompt that the model cannot be asked."""


class CheckpointError(LimnerError):
    """A run, model or checkpoint folder that is missing, damaged or of another kind."""


class NumericalError(LimnerError):
    """A loss, gradient or weight that is not finite."""


class EvaluationError(LimnerError):
    """Scores that would not mean what they say."""


class MissingError(LimnerError):
    """A library, program or file that has to be installed or fetched first."""


class ClusterError(LimnerError):
    """Slurm, SSH or Jupyter did not do what was asked."""


def nearest(given: str, allowed: Iterable[str], *, num: int = 3) -> str:
    """Return `" Did you mean 'x'?"` for the names nearest to `given`, or `""` when none is near."""
    names = list(allowed)
    lowered = {name.lower(): name for name in names}
    found = difflib.get_close_matches(given.lower(), list(lowered), n=num, cutoff=0.6)
    if not found:
        return ""
    quoted = [f"'{lowered[name]}'" for name in found]
    return f" Did you mean {' or '.join(quoted)}?"


def shorten(value: object, limit: int = 80) -> str:
    """Return `repr(value)` cut to `limit` characters, so that a message stays readable whatever was given."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
