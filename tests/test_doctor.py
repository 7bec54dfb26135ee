"""The doctor names what is missing, says what to do, and asks no network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from limner import doctor


def test_the_report_covers_everything_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the doctor asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    text, fit = doctor.report(cache=tmp_path / "cache", folder=tmp_path)
    assert fit, text
    for name in (
        "python",
        "torch",
        "gpu",
        "threads",
        "memory",
        "digits",
        "fashion-mnist",
        "hub",
        "slurm",
        "run folder",
    ):
        assert f" {name} " in text
    assert text.endswith("missing.") or text.endswith("sample.")
    assert not (tmp_path / "cache").exists()


def test_a_missing_library_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor._there
    monkeypatch.setattr(doctor, "_there", lambda name: name not in ("diffusers", "wandb") and there(name))
    found = {finding.name: finding for finding in doctor.libraries()}
    assert found["diffusers"].state == "missing"
    assert found["diffusers"].todo == "pip install 'limner[hub]'"
    assert "wandb" in found["trackers"].todo


def test_without_the_digits_the_machine_is_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = doctor._there
    monkeypatch.setattr(doctor, "_there", lambda name: name != "mlxtend" and there(name))
    text, fit = doctor.report(cache=tmp_path, folder=tmp_path)
    assert not fit
    assert "pip install mlxtend" in text
    assert "not fit yet: 1 problem" in text


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    findings = doctor.places(tmp_path / "cache", tmp_path)
    assert [finding.state for finding in findings] == ["problem", "problem"]
    assert "--out FOLDER" in findings[0].todo
    assert "LIMNER_CACHE" in findings[1].todo


def test_little_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.plan.memory_available", lambda: 200 * 2**20)
    found = {finding.name: finding for finding in doctor.processors()}
    assert found["memory"].state == "problem"
