"""Recipes: the built-in ones, names and files, one budget, and parts that do not fit together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from limner.errors import ConfigError
from limner.recipe import builtin, find, locate, parse, to_yaml


@pytest.mark.parametrize("name", builtin())
def test_every_built_in_recipe_is_valid_and_says_what_it_takes(name: str) -> None:
    recipe = find(name)
    assert recipe.name == name and recipe.about and recipe.hardware and recipe.time
    first = builtin()[name].read_text().splitlines()[0]
    assert first.startswith("# limner train ")


@pytest.mark.parametrize("name", builtin())
def test_a_resolved_recipe_reads_back_as_itself(name: str) -> None:
    recipe = find(name)
    assert parse(yaml.safe_load(to_yaml(recipe))) == recipe


def test_an_unknown_recipe_names_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'digts'\. Did you mean 'digits'"):
        find("digts")


def test_a_run_folder_is_a_recipe(trained: Path, make_recipe: Callable[..., Any]) -> None:
    assert locate(str(trained)) == trained / "config.yaml"
    assert find(str(trained)) == make_recipe()


def test_an_override_of_one_budget_replaces_the_other() -> None:
    assert find("digits", ["train.images=1000"]).train.seconds is None
    assert find("digits", ["train.seconds=5"]).train.seconds == 5


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["train.images=1000", "train.seconds=5"], "give one budget"),
        (["train.seconds=null"], "give one budget"),
        (["train.images=0"], "train.images"),
        (["train.images=-5"], "train.images"),
        (["train.seconds=0"], "train.seconds"),
        (["train.seconds=.nan"], "train.seconds"),
        (["train.seconds=.inf"], "train.seconds"),
        (["train.lr=-1"], "train.lr"),
        (["train.lr=nan"], "train.lr"),
        (["train.batch=0"], "train.batch"),
        (["train.batch=1000000000"], "train.batch"),
        (["train.batch=1.5"], "train.batch"),
        (["train.seed=-1"], "train.seed"),
        (["train.seed=1e40"], "train.seed"),
        (["train.ema=[]"], "train.ema"),
        (["train.ema=[0.5]"], "train.ema"),
        (["train.ema=[0.05]"], "train.model_ema"),
        (["train.betas=[0.9]"], "train.betas"),
        (["train.betas=[0.9, 1]"], "train.betas"),
        (["train.drop=1"], "train.drop"),
        (["train.precision=fp16"], "train.precision"),
        (["train.decay=lineal"], "train.decay"),
        (["train.learning_rate=1"], "train.learning_rate: unknown key"),
        (["trian.lr=1"], "Did you mean 'train'"),
        (["network.kind=unett"], "Did you mean 'unet'"),
        (["network.with=[8]"], "Did you mean 'widths'"),
        (["process.kind=cosine", "target.kind=eps"], "t_max"),
        (["sample.steps=0"], "steps"),
        (["sample.steps=1000000000"], "steps"),
        (["sample.interval=[0.9, 0.1]"], "interval"),
        (["sample.guidance=.nan"], "guidance"),
        (["name=../../etc"], "name"),
        (["name="], "name"),
        (["data.limit=0"], "limit"),
        (["data.judge=0.6", "data.test=0.6"], "leave nothing to train on"),
        (["text.kind=transformer", "text.length=1"], "length"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_trained_is_refused_and_named(overrides: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        find("digits", overrides)
    assert len(str(error.value).splitlines()) <= 9


@pytest.mark.parametrize("sampler", ["ab3x", "own.py:Thing"])
def test_a_sampler_that_is_not_there_is_refused_before_training_and_not_at_the_first_preview(
    sampler: str, make_recipe: Callable[..., Any], cache: Path, tmp_path: Path
) -> None:
    from limner.training.loop import train

    with pytest.raises(ConfigError, match="sampler"):
        next(train(make_recipe(f"sample.sampler={sampler}"), tmp_path / "run", cache=cache))
    assert not (tmp_path / "run").exists()


def test_own_parts_are_honoured_in_recipes(tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    own = tmp_path / "own.py"
    own.write_text("from limner.codecs import Pixels\nclass Mine(Pixels):\n    kind: str = 'mine'\n")
    recipe = make_recipe(f"codec.kind={own}:Mine")
    assert type(recipe.codec).__name__ == "Mine"
    assert json.loads(json.dumps(recipe.model_dump(mode="json")))["codec"]["kind"] == f"{own}:Mine"


def test_own_code_is_closed_again_after_a_recipe(tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    from limner.codecs import CODECS

    make_recipe()
    with pytest.raises(ConfigError, match="--allow"):
        CODECS.parse(f"{tmp_path}/own.py:Mine")
