"""`python -m limner.cluster ...` is `limner cluster ...`, for a login node where the rest is not installed."""

from __future__ import annotations

import sys

from limner.errors import LimnerError


def main() -> int:
    """Run one verb and give the exit code: 0, or 2 after a message in words."""
    import typer

    from limner.cluster.cli import app

    try:
        app(prog_name="limner cluster")
    except LimnerError as error:
        typer.echo(str(error), err=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
