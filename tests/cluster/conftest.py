"""A pretend Slurm: a folder of small commands that print what a test gives them, and a home of the test's own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"


@dataclass
class FakeSlurm:
    """`says("sinfo", text)` makes the command print it; what it was asked is kept in `asked`."""

    folder: Path

    def says(self, command: str, text: str, *, code: int = 0, error: str = "") -> None:
        (self.folder / f"{command}.out").write_text(text)
        (self.folder / f"{command}.err").write_text(error)
        path = self.folder / command
        path.write_text(
            f'#!/bin/sh\necho "{command} $*" >> {self.folder}/asked\n'
            f"/bin/cat {self.folder}/{command}.err >&2\n/bin/cat {self.folder}/{command}.out\nexit {code}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `limner cluster ARGS` in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "limner.cluster", *args],
            env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LIMNER_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    return FakeSlurm(folder)
