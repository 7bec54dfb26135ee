"""What `limner data check SOURCE` prints, and what SOURCE may be: a recipe, a kind, a folder, an archive, a table."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, cast

from limner.config import override, own_code, read_yaml
from limner.data import SOURCES
from limner.data.check import check
from limner.data.source import Source
from limner.errors import ConfigError, nearest

ENDINGS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}


def check_text(source: str, overrides: list[str], cache: Path) -> str:
    """Return the findings about a source in words.

    Arguments:
        overrides: `data.key=value` as for `limner train`; what is not about data is not allowed.
    Raises: ConfigError when there is no such source, and what opening it raises.
    """
    return "\n".join(check(find_source(source, overrides), cache).lines())


def find_source(source: str, overrides: list[str]) -> Source:
    """Return the source that a recipe's name, a recipe's file, a kind, a folder, an archive or a table stands for.

    Raises: ConfigError naming what is near.
    """
    for assignment in overrides:
        if assignment.partition("=")[0].split(".")[0] != "data":
            raise ConfigError(f"{assignment}: only the data are looked at here; write data.KEY=VALUE.")
    tree = override({"data": _described(source)}, overrides)
    with own_code():
        return cast(Source, SOURCES.parse(tree["data"]))


def _described(source: str) -> Any:
    path = Path(source).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        return _data_of(path)
    if path.is_dir():
        return {"kind": "folder", "path": str(path)}
    if path.is_file():
        return {"kind": ENDINGS.get(path.suffix.lower(), "folder"), "path": str(path)}
    recipes = {Path(file.name).stem: file for file in resources.files("limner").joinpath("recipes").iterdir()}
    if source in recipes:
        with resources.as_file(recipes[source]) as file:
            return _data_of(file)
    if source in SOURCES.members:
        return {"kind": source}
    raise ConfigError(
        f"{source}: neither a recipe, nor a file or folder here.{nearest(source, [*recipes, *SOURCES.members])}\n"
        f"Give a recipe's name or FILE.yaml, a folder or archive of images, or a kind: {', '.join(SOURCES.members)}."
    )


def _data_of(path: Path) -> Any:
    tree = read_yaml(path)
    if "data" not in tree:
        raise ConfigError(f"{path}: this recipe has no key data.{nearest('data', tree)}")
    return tree["data"]
