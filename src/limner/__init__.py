"""limner trains text- and class-conditioned image diffusion models from scratch, judges them and samples from them.

    model = limner.load("runs/digits")
    images = model.generate("a handwritten digit 7", seed=3, steps=10, guidance=2.0)

The house is drawn in docs/architecture.md; the mathematics starts in `process/schedules.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limner.errors import LimnerError
    from limner.model import Model, load

__all__ = ["LimnerError", "Model", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import limner` and the command line start without torch."""
    if name in ("Model", "load"):
        from limner import model

        return getattr(model, name)
    if name == "LimnerError":
        from limner.errors import LimnerError

        return LimnerError
    raise AttributeError(f"module 'limner' has no attribute {name!r}")
