"""What many tests share: one tiny trained run, a way to call the command line in this process, and quick child processes.

The tiny run is real digits through a real (if small) U-Net, 30 steps of 16 images: a second or two of computing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: one thread is fastest, and the sums are the same everywhere
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

TINY = {
    "name": "tiny",
    "data": {"kind": "digits", "limit": 200},
    "text": {"kind": "transformer", "width": 16, "depth": 1, "heads": 2, "length": 12},
    "network": {"kind": "unet", "widths": [8, 16], "head_width": 8, "embedding": 16, "middle": 1},
    "train": {
        "images": 480,
        "batch": 16,
        "precision": "fp32",
        "warmup": 3,
        "heldout": 20,
        "previews": 1,
        "snapshots": 2,
        "log_images": 32,
        "checkpoint_images": 160,
        "checkpoint_seconds": None,
        "trackers": [],
    },
    "sample": {"steps": 4},
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests' data stores are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Any]:
    """Return make(*overrides) -> the tiny Recipe with overrides put in."""
    from limner.config import override
    from limner.recipe import parse

    return lambda *overrides: parse(override(json.loads(json.dumps(TINY)), list(overrides)))


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tiny.yaml, for the command line."""
    import yaml

    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def trained(make_recipe: Callable[..., Any], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the tiny recipe, trained to its end. Read only: copy it before changing anything."""
    from limner.training.loop import train

    run = tmp_path_factory.mktemp("runs") / "tiny"
    for _ in train(make_recipe(), run, cache=cache):
        pass
    return run


@pytest.fixture(scope="session")
def model(trained: Path) -> Any:
    """Return the tiny run's model, in fp32. Read only."""
    from limner.model import load

    return load(trained, precision="fp32")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def limner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return limner(*arguments) -> Outcome, run in this process through the real entry point."""
    from limner.__main__ import main

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["limner", *map(str, arguments)])
        capfd.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        return Outcome(code or 0, out, err)

    return call


class Nursery:
    """A helper process that has imported everything once and forks a child for each command: a start costs no import.

    Children are real processes: they can be killed, sent signals, and joined over gloo.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "promises" / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        """Send one request and return its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments: object, env: dict[str, str] | None = None, **more: Any) -> Child:
        """Start `limner ARGUMENTS` (or, with `ids`, a loop that notes image ids) in a child."""
        self.count += 1
        streams = [str(self.folder / f"{self.count}.{name}") for name in ("out", "err")]
        for stream in streams:  # a child may be killed before it opens them
            Path(stream).touch()
        pid = self.ask(do="start", argv=list(map(str, arguments)), env=env or {}, out=streams[0], err=streams[1], **more)
        return Child(self, pid, *map(Path, streams))

    def close(self) -> None:
        """End the helper."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@dataclass(frozen=True)
class Child:
    """One running command."""

    nursery: Nursery
    pid: int
    out: Path
    err: Path

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240) -> Outcome:
        """Return how it ended; code -9 for a SIGKILL. Raises TimeoutError, and kills it, when it does not end in time."""
        code = self.nursery.ask(do="wait", pid=self.pid, seconds=seconds)
        if code is None:
            raise TimeoutError(f"still running after {seconds} s: {self.err.read_text()[-2000:]}")
        return Outcome(code, self.out.read_text(errors="replace"), self.err.read_text(errors="replace"))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Return a Nursery."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def error(limner: Callable[..., Outcome]) -> Callable[..., str]:
    """Return error(*arguments) -> what stands on stderr; fails unless it is a user's error as promised.

    Exit code 2, at most ten lines, no traceback.
    """

    def call(*arguments: object) -> str:
        done = limner(*arguments)
        assert done.code == 2, (done.code, done.out[-1000:], done.err[-1000:])
        assert "Traceback" not in done.err and "Traceback" not in done.out
        assert 1 <= len(done.err.strip().splitlines()) <= 10, done.err
        return done.err

    return call


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Return snapshot(folder) -> file -> bytes, to prove that nothing in a folder was touched."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
