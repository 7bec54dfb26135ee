"""No file that a run, model, recipe or picture is made of can run code: canaries in all of them, and a lint over the source."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import limner as package
from limner.errors import LimnerError

SOURCE = Path(package.__file__).parent


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (open, (str(self.canary), "w"))


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    """Return a path that must not exist when the test ends."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code from data was run"


def pickled(canary: Path, path: Path, how: str) -> None:
    """Write the bomb as torch, numpy or plain pickle."""
    path.unlink(missing_ok=True)
    if how == "torch":
        torch.save({"w": Bomb(canary)}, path)
    elif how == "numpy":
        with path.open("wb") as file:
            np.save(file, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Bomb(canary)))


def test_the_bomb_works(tmp_path: Path) -> None:
    """The canaries mean something: loaded carelessly, it goes off."""
    pickled(tmp_path / "canary", tmp_path / "bomb", "plain")
    with (tmp_path / "bomb").open("rb") as file:
        pickle.load(file).close()
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("how", ["torch", "numpy", "plain"])
@pytest.mark.parametrize("name", ["weights.safetensors", "null.safetensors", "model.json", "tokenizer.json", "words.json"])
def test_pickles_in_a_model_folder(run: Path, canary: Path, name: str, how: str) -> None:
    import hashlib

    from limner.model import load

    path = run / "model" / name
    pickled(canary, path, how)
    if name == "weights.safetensors":  # even when model.json vouches for it
        document = json.loads((run / "model" / "model.json").read_text())
        document["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (run / "model" / "model.json").write_text(json.dumps(document))
    with pytest.raises(LimnerError):
        load(run, precision="fp32")


@pytest.mark.parametrize("how", ["torch", "numpy", "plain"])
def test_pickles_in_a_checkpoint_that_its_manifest_vouches_for(run: Path, canary: Path, how: str) -> None:
    from limner.model import file_sha256
    from limner.training import checkpoint

    folder = checkpoint.folder_of(run, 30)
    for name in ("learner.safetensors", "state.json"):
        pickled(canary, folder / name, how)
    entries = {
        p.name: {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in sorted(folder.iterdir()) if p.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(entries, indent=1))
    with pytest.raises(LimnerError):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["labels.npy", "groups.npy", "tests.npy", "images.u8", "captions.json", "meta.json"])
def test_pickles_in_a_data_store(cache: Path, tmp_path: Path, make_recipe: Any, canary: Path, name: str) -> None:
    source = make_recipe().data
    source.open(cache)
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    for path in copy.glob(f"digits-*/{name}"):
        pickled(canary, path, "numpy")
    store = source.open(copy)  # noticed, and built again
    assert "damaged" in " ".join(store.notices)


TAGS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    '!!python/object/apply:builtins.eval [\'open("{canary}", "w")\']',
]


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_a_recipe_file(tag: str, tmp_path: Path, canary: Path, error: Callable[..., str]) -> None:
    path = tmp_path / "tagged.yaml"
    path.write_text("name: x\ntrain: " + tag.format(canary=canary) + "\n")
    assert "tagged.yaml" in error("train", path)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_an_override(tag: str, canary: Path, error: Callable[..., str]) -> None:
    assert "train.lr" in error("train", "digits", "train.lr=" + tag.format(canary=canary))


def test_tags_in_the_config_of_a_run_that_is_resumed(run: Path, canary: Path, error: Callable[..., str], cache: Path) -> None:
    (run / "finished.json").unlink()
    (run / "config.yaml").write_text("name: " + TAGS[0].format(canary=canary))
    assert "config.yaml" in error("train", run, "--resume", "--cache", cache)


@pytest.fixture
def own_file(tmp_path: Path, canary: Path) -> Path:
    """Return a Python file that touches the canary when it is imported."""
    path = tmp_path / "own.py"
    path.write_text(f"open({str(canary)!r}, 'w').close()\nclass Thing: pass\n")
    return path


@pytest.mark.parametrize("part", ["codec", "text", "network", "process", "target"])
def test_files_named_by_a_model(
    run: Path, canary: Path, own_file: Path, part: str, error: Callable[..., str], tmp_path: Path
) -> None:
    path = run / "model" / "model.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {part: {"kind": f"{own_file}:Thing"}}))
    words = error("sample", run, "a handwritten digit 7", "--out", tmp_path / "out")
    assert "own.py" in words and "--allow" in words


@pytest.mark.parametrize("part", ["codec", "text", "process"])
def test_allowing_one_file_does_not_allow_another(run: Path, canary: Path, own_file: Path, part: str, tmp_path: Path) -> None:
    """The network's file is trusted; what the rest of model.json names is not."""
    from limner.model import load

    good = tmp_path / "good.py"
    good.write_text("from limner.networks import UNet\nclass Mine(UNet):\n    kind: str = 'mine'\n")
    path = run / "model" / "model.json"
    document = json.loads(path.read_text())
    document["network"]["kind"] = f"{good}:Mine"
    path.write_text(json.dumps(document | {part: {"kind": f"{own_file}:Thing"}}))
    with pytest.raises(LimnerError, match="--allow"):
        load(run, precision="fp32", allow=(f"{good}:Mine",))


def test_a_sampler_that_a_model_names_is_never_a_file(run: Path, canary: Path, own_file: Path, error: Callable[..., str]) -> None:
    path = run / "model" / "model.json"
    document = json.loads(path.read_text())
    document["sample"]["sampler"] = f"{own_file}:Thing"
    path.write_text(json.dumps(document))
    assert "own.py" in error("sample", run, "a handwritten digit 7")


def test_text_in_a_picture(tmp_path: Path, canary: Path) -> None:
    from limner.generate import read_facts

    for text in (
        f"__import__('os').system('touch {canary}')",
        TAGS[0].format(canary=canary),
        pickle.dumps(Bomb(canary)).decode("latin1"),
    ):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("limner", text)
        chunks.add_itxt("parameters", text)
        Image.new("L", (4, 4)).save(tmp_path / "x.png", pnginfo=chunks)
        assert read_facts(tmp_path / "x.png") is None


@pytest.mark.parametrize("how", ["torch", "numpy", "plain"])
def test_pictures_that_are_pickles(tmp_path: Path, canary: Path, how: str) -> None:
    from limner.data import Folder

    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        pickled(canary, tmp_path / "pictures" / name / "x.png", how)
    with pytest.raises(LimnerError):
        Folder(path=tmp_path / "pictures").open(tmp_path / "cache")


# ---------------------------------------------------------------------------------------------------- the lint

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "torch.load", "os.system", "os.popen", "pd.read_pickle",
    "pandas.read_pickle", "torch.hub.load", "importlib.import_module", "runpy.run_path", "runpy.run_module",
}  # fmt: skip
EXECUTES_FILES = {"config.py"}  # load_own: FILE.py:NAME, guarded by own_code


def offences(path: Path, tree: ast.AST) -> list[str]:
    """Return what a file does that could run code from data."""
    found = []

    def note(node: Any, what: str) -> None:
        found.append(f"{path}:{node.lineno}: {what}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in MODULES:
                    note(node, f"import {alias.name}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            note(node, f"from {node.module}")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in NAMES or name in CALLS:
                note(node, f"{name}()")
            if name.endswith("exec_module") and path.name not in EXECUTES_FILES:
                note(node, name)
            shell = keywords.get("shell")
            if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
                note(node, "shell=")
            pickles = keywords.get("allow_pickle")
            if pickles is not None and not (isinstance(pickles, ast.Constant) and pickles.value is False):
                note(node, "allow_pickle=")
            if name in ("np.load", "numpy.load") and pickles is None:
                note(node, "np.load without allow_pickle=False")
            code = keywords.get("trust_remote_code")
            if code is not None and not (isinstance(code, ast.Constant) and code.value is False):
                note(node, "trust_remote_code=")
    return found


def test_the_source_neither_unpickles_nor_evaluates_nor_opens_shells() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 50
    found = [line for path in files for line in offences(path, ast.parse(path.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from marshal import loads", "eval('1')", "exec(x)", "yaml.load(x)", "torch.load(p, weights_only=True)",
     "subprocess.run(c, shell=True)", "np.load(p)", "np.load(p, allow_pickle=True)",
     "spec.loader.exec_module(m)", "f(trust_remote_code=x)"],
)  # fmt: skip
def test_the_lint_sees_what_it_looks_for(code: str) -> None:
    assert offences(Path("x.py"), ast.parse(code))
