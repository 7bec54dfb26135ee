"""Recipes as trees: overrides, nearest keys, families, users' own code, and YAML that is something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from limner.config import Config, Family, load_own, override, own_code, read_yaml, validate, write_yaml
from limner.errors import ConfigError


class Round(Config):
    kind: str = "round"
    radius: float = Field(1.0, gt=0)


class Square(Config):
    kind: str = "square"
    side: float = 1.0
    inner: Round = Round()


SHAPES = Family("shape", {"round": Round, "square": lambda: Square})


class Picture(Config):
    shape: SHAPES.field() = Round()  # type: ignore[valid-type]
    count: int = 1
    sizes: tuple[int, ...] = ()


# ---------------------------------------------------------------------------------------------------- keys and values


def test_an_unknown_key_names_its_path_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.cuont: unknown key\. Did you mean 'count'\? Allowed: shape, count, sizes\.$"):
        validate(Picture, {"cuont": 3}, where="recipe")


def test_an_unknown_key_inside_a_part_names_the_parts_keys() -> None:
    with pytest.raises(ConfigError, match=r"shape\.raduis: unknown key\. Did you mean 'radius'\? Allowed: kind, radius"):
        validate(Picture, {"shape": {"kind": "round", "raduis": 3}})
    with pytest.raises(ConfigError, match=r"inner\.raduis: unknown key\. Did you mean 'radius'"):
        validate(Picture, {"shape": {"kind": "square", "inner": {"raduis": 3}}})


@pytest.mark.parametrize("value", ["many", 1.5, [1], {"a": 1}, None])
def test_a_value_of_the_wrong_type_is_shown_with_its_key(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^count: .*given: "):
        validate(Picture, {"count": value})


def test_a_value_out_of_range_says_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"radius: .*greater than 0 \(given: -1\)"):
        validate(Picture, {"shape": {"kind": "round", "radius": -1}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf"])
def test_numbers_that_are_not_finite_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="radius"):
        validate(Round, {"radius": value})


def test_many_mistakes_make_a_short_message() -> None:
    with pytest.raises(ConfigError) as error:
        validate(Picture, {f"key{i}": i for i in range(50)})
    assert len(str(error.value).splitlines()) <= 8 and "and 44 more" in str(error.value)


def test_a_huge_value_is_shown_shortened() -> None:
    with pytest.raises(ConfigError) as error:
        validate(Picture, {"count": "x" * 10**6})
    assert len(str(error.value)) < 1000


def test_configs_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Round().radius = 2  # type: ignore[misc]


# ---------------------------------------------------------------------------------------------------- families


def test_a_part_is_a_config_a_name_or_a_mapping() -> None:
    for value in (Square(), "square", {"kind": "square"}):
        assert validate(Picture, {"shape": value}).shape == Square()


def test_a_part_is_dumped_whole_with_its_own_keys() -> None:
    tree = Picture(shape=Square(side=3)).model_dump(mode="json")
    assert tree["shape"] == {"kind": "square", "side": 3.0, "inner": {"kind": "round", "radius": 1.0}}
    assert validate(Picture, tree) == Picture(shape=Square(side=3))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("ruond", r"shape: there is no kind 'ruond'\. Did you mean 'round'\? Allowed: round, square, or FILE\.py:NAME"),
        ({"radius": 1}, "shape: `kind` is missing. Allowed: round, square"),
        ({"kind": ["round"]}, "shape: `kind` must be a name"),
        ({"kind": None}, "shape: `kind` must be a name"),
        (3, "shape: expected a mapping with `kind`, got 3"),
        ([], "shape: expected a mapping"),
    ],
)
def test_a_part_that_is_none_is_refused_with_what_is(value: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        validate(Picture, {"shape": value})


# ---------------------------------------------------------------------------------------------------- own code


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(
        "from limner.config import Config\n"
        "class Star(Config):\n    kind: str = 'star'\n    points: int = 5\n"
        "def function(): pass\nnumber = 3\nclass Plain: pass\n"
    )
    return path


def test_own_code_is_honoured_where_it_was_opened_and_only_there(own: Path) -> None:
    kind = f"{own}:Star"
    with own_code():
        assert validate(Picture, {"shape": {"kind": kind, "points": 7}}).shape.points == 7
    with pytest.raises(ConfigError, match=f"--allow {kind}"):
        validate(Picture, {"shape": {"kind": kind}})


def test_own_code_is_honoured_for_the_named_only(own: Path) -> None:
    with own_code(only=[f"{own}:Other"]), pytest.raises(ConfigError, match="--allow"):
        SHAPES.parse({"kind": f"{own}:Star"})
    with own_code(only=[f"{own}:Star"]):
        assert SHAPES.parse({"kind": f"{own}:Star"}).kind == f"{own}:Star"


def test_own_parts_keep_their_kind_through_a_dump(own: Path) -> None:
    with own_code():
        picture = validate(Picture, {"shape": f"{own}:Star"})
        assert validate(Picture, picture.model_dump(mode="json")) == picture


@pytest.mark.parametrize(
    ("name", "named"),
    [("Satr", "Did you mean 'Star'"), ("function", "no class"), ("number", "no class"), ("Plain", "no class")],
)
def test_names_that_are_no_config_are_refused(own: Path, name: str, named: str) -> None:
    with own_code(), pytest.raises(ConfigError, match=named):
        SHAPES.parse({"kind": f"{own}:{name}"})


@pytest.mark.parametrize(
    ("content", "named"),
    [("1/0", "ZeroDivisionError"), ("def (", "SyntaxError"), ("import nothing_such", "ModuleNotFoundError"), ("\x00", "own2.py")],
)
def test_a_file_that_cannot_run_is_told_in_one_line(content: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "own2.py"
    path.write_text(content)
    with pytest.raises(ConfigError, match=named) as error:
        load_own(f"{path}:Thing")
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*missing\.py"):
        load_own(f"{tmp_path}/missing.py:Thing")


# ---------------------------------------------------------------------------------------------------- overrides

TREE = {
    "name": "x",
    "train": {"lr": 0.1, "images": 5},
    "network": {"kind": "unet", "widths": [8, 16], "patch": 2},
    "text": "labels",
}


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("train.lr=2e-3", "train.lr", 0.002),
        ("train.lr=2E-3", "train.lr", 0.002),
        ("train.lr=.5", "train.lr", 0.5),
        ("train.images=200000", "train.images", 200000),
        ("train.images=1_000", "train.images", 1000),
        ("train.images=null", "train.images", None),
        ("train.images=", "train.images", None),
        ("train.flip=true", "train.flip", True),
        ("network.widths=[32, 64]", "network.widths", [32, 64]),
        ("network.widths=[]", "network.widths", []),
        ("about=a=b", "about", "a=b"),
        ("about='7'", "about", "7"),
        ("about=e", "about", "e"),
        ("about=1-2", "about", "1-2"),
        ("new.deep.key=1", "new.deep.key", 1),
    ],
)
def test_an_override_is_put_where_it_says_as_yaml_means_it(assignment: str, path: str, value: Any) -> None:
    node: Any = override(TREE, [assignment])
    for part in path.split("."):
        node = node[part]
    assert node == value and type(node) is type(value)


def test_the_tree_given_is_not_changed() -> None:
    import copy

    before = copy.deepcopy(TREE)
    override(TREE, ["train.lr=5", "network.kind=dit", "text.width=8"])
    assert before == TREE


def test_changing_the_kind_drops_the_old_kinds_keys() -> None:
    assert override(TREE, ["network.kind=dit", "network.depth=3"])["network"] == {"kind": "dit", "depth": 3}
    assert override(TREE, ["network=dit", "network.depth=3"])["network"] == {"kind": "dit", "depth": 3}


def test_naming_the_same_kind_drops_nothing() -> None:
    assert override(TREE, ["network.kind=unet"])["network"] == TREE["network"]


def test_keys_given_before_the_kind_are_not_dropped_in_silence() -> None:
    assert override(TREE, ["network.depth=3", "network.kind=dit"])["network"] == {"kind": "dit", "depth": 3}
    assert override(TREE, ["network.depth=3", "network=dit"])["network"] == {"kind": "dit", "depth": 3}


def test_a_part_given_by_name_can_be_given_keys() -> None:
    assert override(TREE, ["text.width=8"])["text"] == {"kind": "labels", "width": 8}


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("train.lr", "key.key=value"),
        ("=3", "key.key=value"),
        (".lr=3", "key.key=value"),
        ("train..lr=3", "key.key=value"),
        ("train.=3", "key.key=value"),
        ("", "key.key=value"),
        ("train.lr=[1", "not valid YAML"),
        ("train.lr={", "not valid YAML"),
        ("train.lr=!!python/name:os.system", "not valid YAML"),
        ("train.lr.x=3", "train.lr is 0.1, which has no keys"),
        ("network.widths.a=1", "network.widths is"),
        ("name=2024-13-45", "not valid YAML"),
        ("name=" + "[" * 5000, "not valid YAML"),
        ("name=" + "9" * 5000, "not valid YAML"),
        ("name=0b_", "not valid YAML"),
    ],
)
def test_an_assignment_that_means_nothing_is_refused(assignment: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        override(TREE, [assignment])


# ---------------------------------------------------------------------------------------------------- YAML


def test_yaml_goes_around_in_order(tmp_path: Path) -> None:
    tree = {"b": 1, "a": {"z": [1, 2.5, None], "ä": "text: with colon"}}
    path = tmp_path / "a.yaml"
    path.write_text(write_yaml(tree), encoding="utf-8")
    assert read_yaml(path) == tree and list(read_yaml(path)) == ["b", "a"]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MAPPING_BOMB = "a0: &a0 {x: 1, y: 1}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "a recipe is a mapping"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"just words", "a recipe is a mapping"),
        (b"a: [1, 2", "not valid YAML at line"),
        (b"a: b: c", "not valid YAML at line 1"),
        (b"a:\n\t- b", "not valid YAML at line 2"),
        (b"a: \xff\xfe", "not a text file in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "UTF-8"),
        (b"a: \x00", "not valid YAML"),
        (b"a: !!python/object/apply:os.system [ls]", "not valid YAML at line 1"),
        (b"a: &x [*x]", "refers to itself"),
        (b"a: &x {b: *x}", "refers to itself"),
        (b"a: 2024-13-45", "not valid YAML"),
        (b"a: 0b_", "not valid YAML"),
        (b"a: " + b"9" * 5000, "not valid YAML"),
        (b"a: " + b"[" * 20_000, "not valid YAML"),
        (b"a: " + b"x" * 1_000_001, "larger than 1 MB"),
        (BOMB.encode(), "larger than"),
        (MAPPING_BOMB.encode(), "larger than"),
    ],
    ids=range(19),
)
def test_a_file_that_is_no_recipe_is_refused_with_its_name(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=named) as error:
        read_yaml(path)
    assert "broken.yaml" in str(error.value) and len(str(error.value)) < 1000


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.yaml"):
        with pytest.raises(ConfigError, match="there is no such file"):
            read_yaml(path)
