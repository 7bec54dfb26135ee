"""`limner ...` and `python -m limner ...`: runs the command line and turns errors into one message and exit code 2."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; a LimnerError (or the system's refusal of a file) is printed, not traced, unless --debug."""
    debug = "--debug" in sys.argv or os.environ.get("LIMNER_DEBUG") == "1"
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    from limner.errors import LimnerError

    try:
        if sys.argv[1:2] == ["cluster"]:  # answers before the other verbs' libraries are imported
            from limner.cluster.cli import main as cluster

            sys.exit(cluster(sys.argv[2:]))
        from limner.cli import app

        app(prog_name="limner")
    except LimnerError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}.", 2)
    except KeyboardInterrupt:
        _fail("interrupted.", 130)


def _fail(message: str, code: int) -> None:
    lines = message.splitlines()
    if len(lines) > 9:
        lines = [*lines[:8], f"... {len(lines) - 8} more lines; --debug shows all."]
    sys.stderr.write("error: " + "\n       ".join(lines) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
