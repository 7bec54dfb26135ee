"""Forks children that have everything imported already; speaks JSON lines. See `Nursery` in tests/conftest.py."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

import limner.generate
import limner.plan
import limner.sample_command
import limner.training.command
import limner.training.loop
from limner.__main__ import main


def collect_ids(request: dict) -> None:
    """Train with loop.train and write each step's ids; end after `steps` steps if given."""
    from pathlib import Path

    from limner.recipe import find

    found = []
    loop = limner.training.loop.train(
        find(request["recipe"], request["argv"]), Path(request["run"]), cache=Path(request["cache"]), resume=True
    )
    for log in loop:
        found.append([log.step, list(log.ids)])
        if len(found) == request.get("steps"):
            break
    loop.close()
    Path(request["ids"]).write_text(json.dumps(found))


def child(request: dict) -> int:
    """Do what is asked in a forked process; return the exit code."""
    for stream, number in ((request["out"], 1), (request["err"], 2)):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.update(request["env"])
    try:
        if "ids" in request:
            collect_ids(request)
            return 0
        sys.argv = ["limner", *request["argv"]]
        main()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001 (whatever it is, it becomes the child's exit code)
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def wait(pid: int, seconds: float) -> int | None:
    """Return a child's exit code (negative for a signal), or None, killing it, when it runs for longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def serve() -> None:
    """Answer requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            answer = wait(request["pid"], request["seconds"])
        else:
            answer = os.fork()
            if answer == 0:
                code = 1
                try:
                    code = child(request)
                    sys.stdout.flush()
                finally:
                    os._exit(code)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
