"""The base of every config: frozen pydantic models, YAML, `a.b=c` overrides and errors that name the nearest key.

An object is its config (docs/architecture.md, decision 5). A family (process, target, network, ...) is one explicit table from
`kind` to class; `Family.field()` makes a pydantic field type of it. `kind: my_file.py:MyThing` loads a user's own class, but
only where `own_code` was opened: from the command line and from recipes, never from a checkpoint.
Next: `recipe.py`, where the families are put together.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError

from limner.errors import ConfigError, LimnerError, nearest, shorten

MAX_VALUES = 100_000  # in one YAML file

_own_code: contextvars.ContextVar[Callable[[str], bool]] = contextvars.ContextVar("own_code", default=lambda kind: False)


@contextlib.contextmanager
def own_code(only: Collection[str] | None = None) -> Iterator[None]:
    """Honour `kind: FILE.py:NAME` inside this block: every one, or `only` those named. Opened by the command line and by recipes only."""
    token = _own_code.set(lambda kind: only is None or kind in only)
    try:
        yield
    finally:
        _own_code.reset(token)


def may_run(kind: str) -> bool:
    """Return whether FILE.py:NAME may be run here: inside an `own_code` block that names it."""
    return _own_code.get()(kind)


class Config(BaseModel):
    """A frozen description; unknown keys are errors that name the nearest known key."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Family:
    """One explicit table from `kind` to config class, for one family of parts.

    Arguments:
        name: the family's name in messages, such as "process".
        members: kind -> class, or kind -> function that imports and returns the class (for members with heavy imports).
    """

    def __init__(self, name: str, members: Mapping[str, type[Config] | Callable[[], type[Config]]]) -> None:
        self.name = name
        self.members = dict(members)

    def lookup(self, kind: str) -> type[Config]:
        """Return the class of `kind`; raise ConfigError naming the nearest kinds."""
        if kind in self.members:
            member = self.members[kind]
            return member if isinstance(member, type) else member()
        if ".py:" in kind:
            return self._own(kind)
        raise ConfigError(
            f"{self.name}: there is no kind {shorten(kind)}.{nearest(kind, self.members)} "
            f"Allowed: {', '.join(self.members)}, or FILE.py:NAME for your own."
        )

    def _own(self, kind: str) -> type[Config]:
        if not may_run(kind):
            raise ConfigError(
                f"{self.name}: kind {shorten(kind)} names code in a file, and code is not loaded from a model or checkpoint.\n"
                f"If you trust it, name it on the command line: --allow {kind}"
            )
        found = load_own(kind)
        if not (isinstance(found, type) and issubclass(found, Config)):
            raise ConfigError(f"{self.name}: {shorten(kind)} is no class derived from limner.config.Config.")
        return found

    def parse(self, value: Any) -> Config:
        """Return the config that `value` describes: a config already, a kind's name, or a mapping with `kind`."""
        if isinstance(value, Config):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.name}: expected a mapping with `kind`, got {shorten(value)}.")
        if "kind" not in value:
            raise ConfigError(f"{self.name}: `kind` is missing. Allowed: {', '.join(self.members)}.")
        kind = value["kind"]
        if not isinstance(kind, str):
            raise ConfigError(f"{self.name}: `kind` must be a name, got {shorten(kind)}.")
        cls = self.lookup(kind)
        return validate(cls, dict(value), where=self.name)

    def field(self) -> Any:
        """Return the pydantic field type of this family: validated by `parse`, dumped whole."""
        return SerializeAsAny[Annotated[Config, BeforeValidator(self.parse)]]


def load_own(spec: str) -> Any:
    """Return the object `NAME` of the file in `FILE.py:NAME`, running that file.

    Raises: ConfigError when the file or the name is not there, or the file fails.
    """
    path_text, _, name = spec.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise ConfigError(f"{spec}: there is no file {path_text}. Write FILE.py:NAME with a path from here.")
    module_name = f"limner_own_{path.stem}_{abs(hash(path.resolve()))}"
    module = sys.modules.get(module_name)
    if module is None:
        found = importlib.util.spec_from_file_location(module_name, path)
        if found is None or found.loader is None:
            raise ConfigError(f"{spec}: {path_text} is not a Python file.")
        module = importlib.util.module_from_spec(found)
        sys.modules[module_name] = module
        try:
            found.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise ConfigError(f"{spec}: the file cannot be run: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{spec}: {path_text} has no name {name!r}.{nearest(name, public)}")
    return getattr(module, name)


def validate(cls: type[Any], value: Mapping[str, Any], *, where: str = "") -> Any:
    """Return `cls(**value)`; raise ConfigError in words instead of pydantic's ValidationError.

    Arguments:
        where: the path of `value` in the recipe, put before the keys that are wrong.
    """
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        raise ConfigError(explain(error, cls, where=where)) from error


def explain(error: ValidationError, cls: type[BaseModel], *, where: str = "") -> str:
    """Return at most eight lines: for each wrong key its path, what was given, what is allowed, and the nearest key."""
    lines = []
    for entry in error.errors()[:6]:
        path = ".".join([where, *map(str, entry["loc"])]).strip(".")
        owner = _model_at(cls, entry["loc"][:-1])
        if entry["type"] == "extra_forbidden":
            keys = list(owner.model_fields) if owner else []
            lines.append(f"{path}: unknown key.{nearest(str(entry['loc'][-1]), keys)} Allowed: {', '.join(keys)}.")
        elif entry["type"] == "missing":
            lines.append(f"{path}: this key is required.")
        else:
            cause = entry.get("ctx", {}).get("error")
            message = str(cause) if isinstance(cause, LimnerError | ValueError) else entry["msg"]
            lines.append(f"{path}: {message}" + (f" (given: {shorten(entry['input'])})" if cause is None else ""))
    more = error.error_count() - len(lines)
    if more > 0:
        lines.append(f"... and {more} more.")
    return "\n".join(lines)


def _model_at(cls: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """Return the model class that holds the key at `path`, as far as annotations tell."""
    here: type[BaseModel] | None = cls
    for part in path:
        if here is None or part not in here.model_fields:
            return here
        annotation = here.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        here = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return here


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (safe loading only: no tags, no code).

    Raises: ConfigError when it is missing, too large (1 MB), not YAML, or not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.")
    if path.stat().st_size > 1_000_000:
        raise ConfigError(f"{path}: larger than 1 MB, which is no recipe.")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that is none
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{place}: {getattr(error, 'problem', None) or error}") from error
    if not _bounded(value):
        raise ConfigError(f"{path}: larger than {MAX_VALUES} values when its aliases are followed, or it refers to itself.")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values, this is {shorten(value)}.")
    return value


def _bounded(value: Any) -> bool:
    """Return whether a tree, its aliases followed, has at most MAX_VALUES values: a few lines of YAML can stand for 10^12."""
    left, stack = MAX_VALUES, [value]
    while stack and left > 0:
        left -= 1
        node = stack.pop()
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        left -= len(stack) > MAX_VALUES
        stack.extend(children)
    return not stack


def write_yaml(value: Mapping[str, Any]) -> str:
    """Return `value` as YAML in the order of its keys."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)


def override(tree: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return `tree` with each `a.b=c` put in; values are YAML (`3`, `0.1`, `true`, `[1, 2]`, `text`).

    Setting `kind` of a part drops that part's other keys, since they belong to the old kind.
    Raises: ConfigError when an assignment has no `=` or its path runs through a value that is no mapping.
    """
    result = _copy(tree)
    for assignment in sorted(assignments, key=_depth):  # a part's kind first: it drops keys, and those given here are meant
        key, sign, text = assignment.partition("=")
        if not sign or not key or any(not part for part in key.split(".")):
            raise ConfigError(f"{shorten(assignment)}: an override is written key.key=value, such as train.images=200000.")
        try:
            value = yaml.safe_load(text) if text else None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{shorten(assignment)}: the value is not valid YAML.") from error
        if not _bounded(value):
            raise ConfigError(f"{shorten(assignment)}: the value refers to itself, or is far too large.")
        if isinstance(value, str) and value == text.strip():  # not '7' in quotes
            value = _number(value)
        *parents, last = key.split(".")
        node = result
        for depth, parent in enumerate(parents):
            child = node.setdefault(parent, {})
            if isinstance(child, str):  # `network: unet` is short for `network: {kind: unet}`
                child = node[parent] = {"kind": child}
            if not isinstance(child, dict):
                path = ".".join(parents[: depth + 1])
                raise ConfigError(f"{shorten(assignment)}: {path} is {shorten(child)}, which has no keys.")
            node = child
        if last == "kind" and node.get("kind") not in (None, value):
            node.clear()
        node[last] = value
    return result


def _depth(assignment: str) -> int:
    parts = assignment.partition("=")[0].split(".")
    return len(parts) - (parts[-1] == "kind")


def _number(text: str) -> str | float:
    """YAML 1.1 reads `2e-3` as text; people mean the number."""
    try:
        return float(text) if any(c.isdigit() for c in text) and set(text) <= set("0123456789.eE+-") else text
    except ValueError:
        return text


def _copy(tree: Any) -> Any:
    return {key: _copy(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
