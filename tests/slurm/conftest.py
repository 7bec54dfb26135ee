"""Starts one real Slurm for the session and gives each test an idle cluster, a clean home and the command line to
run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .control import SlurmCluster

SOURCE = Path(__file__).parents[2] / "src"
FAKE_TRAIN = Path(__file__).with_name("fake_train.py")


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    missing = [name for name in ("slurmctld", "slurmd", "sinfo") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurm-wlm (missing: {missing})")
    cluster = SlurmCluster()
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that a killed session cleans up
    try:
        cluster.start()
        yield cluster
    finally:
        signal.signal(signal.SIGTERM, previous)
        cluster.stop()


@dataclass
class Shell:
    """A user's shell on the login node: own state and configuration, `limner cluster` at hand."""

    cluster: SlurmCluster
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *args: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "limner.cluster", *args],
            cwd=self.home, env={**self.environment, **more}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def limner(self, *args: str, code: int = 0, timeout: float = 120, **more: str) -> str:
        """Run one verb, check its exit code, and give stdout (stderr for a failure)."""
        process = self.start(*args, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == code, f"{args} ended with {process.returncode}: {out}\n{err}"
        assert "Traceback" not in err
        return out if code == 0 else err

    def data(self, *args: str) -> Any:
        return json.loads(self.limner(*args, "--json"))

    def fake_training(self, **settings: str) -> None:
        """From now on `python -m limner train` in jobs is tests/slurm/fake_train.py, which keeps the contract and
        nothing else.
        """
        wrapper = self.home / "fake-python"
        wrapper.write_text(
            "#!/bin/bash\n"
            f'if [ "$2 $3" = "-m limner" ]; then shift 3; exec {sys.executable} {FAKE_TRAIN} "$@"; fi\n'
            f'shift; exec {sys.executable} "$@"\n'
        )
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        lines = [
            f"command: {wrapper}",
            "environment:",
            "  FAKE: 'yes'",
            *(f"  {k}: '{v}'" for k, v in settings.items()),
        ]
        (self.home / "cluster.yaml").write_text("\n".join(lines) + "\n")


@pytest.fixture
def slurm(slurm_session: SlurmCluster) -> Iterator[SlurmCluster]:
    yield slurm_session
    slurm_session.clear()


@pytest.fixture
def shell(slurm: SlurmCluster, tmp_path: Path) -> Shell:
    environment = {
        **slurm.environment,
        "PYTHONPATH": str(SOURCE),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "HOME": str(tmp_path),
        "PYTHONWARNINGS": "error",
    }
    environment.pop("LIMNER_CLUSTER", None)
    return Shell(slurm, tmp_path, environment)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("train: {images: 10}\n")
    return path
