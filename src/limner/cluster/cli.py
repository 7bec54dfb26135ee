"""The verbs of `limner cluster` and their options. `run()` is the way in; `app` is the same for a typer program to
mount.

Parsed by argparse: the typer at hand imports pydantic for any option, which alone takes longer than a verb may take
to start (ten times a bare Python). Next: `verbs.py` for what they do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from limner.cluster import verbs
from limner.errors import ClusterError, LimnerError, nearest

Parser = argparse.ArgumentParser
ABOUT = "A Slurm cluster: free GPUs, notebooks on a node, training jobs that survive the night."


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("0 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("a number of seconds")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError("1 to 65535")
    return value


def _shown(parser: Parser, *, watch: bool = True) -> None:
    parser.add_argument("--json", action="store_true", help="plain data instead of text")
    if watch:
        parser.add_argument("--watch", type=_seconds, default=0.0, metavar="SECONDS", help="show it again and again")


def _asked(parser: Parser, *, gpus: int | None, hours: float) -> None:
    add = parser.add_argument
    add("--gpus", type=_count, default=gpus, help="GPUs on each node; 0 for none")
    add("--type", default="", help="only GPUs whose type holds this, such as a100")
    add("--hours", type=float, default=hours, help=f"time limit (default {hours:g})")
    add("--cpus", type=_count, default=0, help="CPUs for each task (default: a fair share of the node)")
    add("--memory", type=_seconds, default=0.0, metavar="GB", help="memory on each node (default: a fair share)")
    add("--partition", default="", help="instead of the profile's")
    add("--qos", default="", help="instead of the profile's")


def _served(parser: Parser) -> None:
    add = parser.add_argument
    add("--local-port", type=_port, default=0, help="port on your own computer (default 8888; TensorBoard 6006)")
    add(
        "--wait",
        type=_seconds,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait until it is ready (default 300)",
    )
    add("--cancel-on-exit", action="store_true", help="stay here; Ctrl-C also ends the job")


def _gpus(parser: Parser) -> None:
    parser.add_argument("--type", default="", help="only GPUs whose type holds this, such as a100")
    parser.add_argument("--all", action="store_true", help="every row")
    _shown(parser)


def _nodes(parser: Parser) -> None:
    parser.add_argument("node", nargs="?", default="", help="only this node")
    _shown(parser)


def _status(parser: Parser) -> None:
    parser.add_argument("job", nargs="?", default="", help="only this job")
    parser.add_argument("--everybody", action="store_true", help="other people's jobs too")
    _shown(parser)


def _submit(parser: Parser) -> None:
    add = parser.add_argument
    add("recipe", help="a recipe's name or file")
    add("overrides", nargs="*", metavar="a.b=c", help="changes to the recipe")
    add("--out", type=Path, help="the run folder (default runs/RECIPE)")
    add("--nodes", type=_count, default=1, help="machines (default 1)")
    _asked(parser, gpus=1, hours=24)
    add("--node", default="", help="on this node only")
    add("--sweep", action="append", default=[], metavar="a.b=1,2,3", help="one run for each value")
    add("--chain", default="train", help="steps that wait for each other: cache,train,eval or some of them")
    add("--dry-run", action="store_true", help="show the job script and submit nothing")
    _shown(parser, watch=False)


def _jupyter(parser: Parser) -> None:
    parser.add_argument("where", nargs="?", default="gpu", help="gpu (default), cpu, or the name of a node")
    _asked(parser, gpus=None, hours=8)
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder to open (default: this one)")
    parser.add_argument("--socket", action="store_true", help="a UNIX socket of mode 0600 instead of a port")
    _served(parser)
    _shown(parser, watch=False)


def _tensorboard(parser: Parser) -> None:
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs"), help="a run folder, or a folder of runs")
    parser.add_argument("--hours", type=float, default=8.0, help="time limit (default 8)")
    parser.add_argument("--partition", default="", help="instead of the profile's")
    _served(parser)
    _shown(parser, watch=False)


def _connect(parser: Parser) -> None:
    parser.add_argument("job", nargs="?", help="which notebook; may be left out when there is one")
    parser.add_argument("--local-port", type=_port, default=0, help="port on your own computer")
    parser.add_argument("--wait", type=_seconds, default=60.0, metavar="SECONDS", help="how long to wait (default 60)")
    _shown(parser, watch=False)


def _logs(parser: Parser) -> None:
    parser.add_argument("job", help="a job id, 123 or 123_4")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("-n", "--lines", type=_count, default=40, help="how many of the last lines (default 40)")


def _cancel(parser: Parser) -> None:
    parser.add_argument("job", nargs="+", help="one or more job ids")


def _monitor(parser: Parser) -> None:
    parser.add_argument("job", help="a training job's id, or a run folder")
    _shown(parser)


def _profile(parser: Parser) -> None:
    parser.add_argument("--init", action="store_true", help="write what was found to a file, to be completed by hand")
    parser.add_argument("--out", type=Path, default=Path("cluster.yaml"), help="that file")
    parser.add_argument("--force", action="store_true", help="write over it when it is there")
    _shown(parser, watch=False)


VERBS: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[Parser], None]]] = {
    "gpus": (verbs.gpus, _gpus),
    "nodes": (verbs.nodes, _nodes),
    "jupyter": (verbs.jupyter, _jupyter),
    "connect": (verbs.connect, _connect),
    "status": (verbs.status, _status),
    "logs": (verbs.logs, _logs),
    "cancel": (verbs.cancel, _cancel),
    "tensorboard": (verbs.tensorboard, _tensorboard),
    "monitor": (verbs.monitor, _monitor),
    "submit": (verbs.submit, _submit),
    "profile": (verbs.profile, _profile),
}


def run(argv: Sequence[str]) -> int:
    """Run one verb with its options and return its exit code.

    Raises: LimnerError in words; SystemExit by argparse (2 for wrong options, 0 after help).
    """
    if not argv or argv[0] in ("-h", "--help"):
        verbs.say(overview())
        return 0
    if argv[0] not in VERBS:
        raise ClusterError(
            f"limner cluster has no verb {argv[0]!r}.{nearest(argv[0], VERBS)}\nVerbs: {', '.join(VERBS)}.\n"
            "Try: limner cluster --help"
        )
    act, declare = VERBS[argv[0]]
    parser = Parser(prog=f"limner cluster {argv[0]}", description=_first_line(act), allow_abbrev=False)
    declare(parser)
    return act(parser.parse_intermixed_args(list(argv[1:])))


def overview() -> str:
    """Return the verbs, a line each."""
    lines = [f"  {name:<12} {_first_line(act)}" for name, (act, _) in VERBS.items()]
    return "\n".join(["Usage: limner cluster VERB [OPTIONS]", "", ABOUT, "", *lines, "", "limner cluster VERB --help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; a LimnerError becomes its message on stderr and its exit code."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except LimnerError as error:
        verbs.note(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _first_line(act: Callable[..., Any]) -> str:
    return (act.__doc__ or "").strip().splitlines()[0]


def __getattr__(name: str) -> Any:
    """Give `app`, made only when it is asked for: a typer program whose commands hand their words to `run()`."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import typer

    app = typer.Typer(name="cluster", help=ABOUT, no_args_is_help=True, add_completion=False)
    for verb, (act, _) in VERBS.items():
        settings: dict[str, Any] = {
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "allow_interspersed_args": False,
            "help_option_names": [],
        }
        app.command(verb, help=_first_line(act), context_settings=settings)(_command(verb))
    return app


def _command(verb: str) -> Callable[..., None]:
    import typer

    def command(ctx: typer.Context) -> None:
        raise typer.Exit(run([verb, *ctx.args]))

    command.__annotations__["ctx"] = typer.Context  # typer reads annotations, and this one is local
    return command
