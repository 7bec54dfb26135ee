"""The bundle: saved and loaded it is the same model, and everything it says is in one value range."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limner as package
from limner.errors import CheckpointError, PromptError
from limner.model import load, locate


def test_a_saved_model_is_the_same_model(model: Any, tmp_path: Path) -> None:
    digest = model.save(tmp_path / "copy")
    again = load(tmp_path / "copy", precision="fp32")
    assert again.sha256 == digest == load(tmp_path / "copy").sha256
    x, t = torch.randn(3, *model.latent_shape), torch.tensor([0.2, 0.5, 0.9])
    prompts = ["a handwritten digit 7", "", "3"]
    assert torch.equal(model.denoise(x, t, model.encode(prompts)), again.denoise(x, t, again.encode(prompts)))
    assert again.config == model.config


def test_saving_twice_gives_the_same_bytes(model: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        model.save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_null_conditioning_is_what_the_encoder_says_to_nothing(trained: Path, model: Any) -> None:
    stored, said = load_file(trained / "model" / "null.safetensors"), model.encode([""])
    assert (stored["tokens"] - said.tokens).abs().max() < 1e-6
    assert (stored["pooled"] - said.pooled).abs().max() < 1e-6


def test_a_null_conditioning_that_changed_is_noticed(run: Path) -> None:
    """The file is whole, but the weights beside it are another model's."""
    from safetensors.torch import save_file

    folder = run / "model"
    null = load_file(folder / "null.safetensors")
    save_file({"tokens": null["tokens"] + 1, "pooled": null["pooled"]}, folder / "null.safetensors")
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(document | {"files": {}}))
    with pytest.raises(CheckpointError, match="no longer says"):
        load(run, precision="fp32")


def test_denoise_inverts_the_target(model: Any) -> None:
    """x0 from the network's answer, put together by hand: flow target, x0 = x_t - t·v."""
    x, t = torch.randn(4, *model.latent_shape), torch.tensor([0.1, 0.4, 0.7, 1.0])
    conditioning = model.encode(["7"] * 4)
    with torch.no_grad():
        v = model.network(x, t, conditioning)
    assert (model.denoise(x, t, conditioning) - (x - t[:, None, None, None] * v)).abs().max() < 1e-5


def test_times_may_be_double_as_grids_are(model: Any) -> None:
    x, t = torch.randn(2, *model.latent_shape), torch.tensor([0.3, 0.6])
    conditioning = model.encode(["7", "3"])
    found = model.denoise(x, t.double(), conditioning)
    assert found.dtype == torch.float32 and (found - model.denoise(x, t, conditioning)).abs().max() < 1e-5


def test_a_run_a_model_folder_and_a_text_path_are_all_found(trained: Path) -> None:
    for path in (trained, trained / "model", str(trained)):
        assert locate(path) == trained / "model"


@pytest.mark.parametrize("what", ["missing", "empty", "file", "unfinished"])
def test_what_is_no_model_is_refused_with_what_it_is(what: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if what == "file":
        path.write_text("x")
    elif what != "missing":
        path.mkdir()
    if what == "unfinished":
        (path / "config.yaml").write_text("name: x")
    said = {"missing": "no such run", "unfinished": "no model yet", "empty": "no run or model", "file": "no run or model"}[what]
    with pytest.raises(CheckpointError, match=said):
        load(path)


def test_the_provenance_says_what_made_it(trained: Path, model: Any) -> None:
    facts = model.config.provenance
    assert facts["step"] == 30 and facts["images"] == 480 and facts["recipe"] == "tiny" and facts["ema"] == 0.1
    assert facts["versions"]["torch"] == torch.__version__
    assert model.config.class_names == tuple("0123456789") and model.config.labels["the number seven, handwritten"] == 7


def test_generate_from_python(model: Any) -> None:
    images = model.generate("a handwritten digit 7", seed=3, num=2, steps=2, guidance=2.0)
    again = model.generate(["a handwritten digit 7"], seed=4, steps=2, guidance=2.0)
    assert [image.size for image in images] == [(28, 28)] * 2 and images[0].mode == "L"
    assert np.abs(np.asarray(images[1], int) - np.asarray(again[0], int)).max() <= 1


def test_generate_refuses_unknown_words_and_options_before_computing(model: Any) -> None:
    from limner.errors import ConfigError

    with pytest.raises(PromptError, match="'zebra'"):
        model.generate("a zebra")
    with pytest.raises(ConfigError, match="Did you mean 'guidance'"):
        model.generate("7", guidence=2)


def test_own_networks_are_allowed_by_name(run: Path, tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    own = tmp_path / "own.py"
    own.write_text("from limner.networks import UNet\nclass Mine(UNet):\n    kind: str = 'mine'\n")
    path = run / "model" / "model.json"
    document = json.loads(path.read_text())
    document["network"]["kind"] = f"{own}:Mine"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=f"--allow {own}:Mine"):
        load(run, precision="fp32")
    assert type(load(run, precision="fp32", allow=(f"{own}:Mine",)).config.network).__name__ == "Mine"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, limner, limner.cli; print([m for m in ('torch', 'numpy', 'pydantic', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert "load" in package.__all__
    with pytest.raises(AttributeError, match="nothing_such"):
        package.nothing_such  # noqa: B018
