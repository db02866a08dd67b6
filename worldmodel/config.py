"""YAML -> frozen dataclasses, strictly: every mistake is named with its file and key path.

A config class is a frozen dataclass with type hints. A field may hold a scalar, a nested config, a
tuple, a dict with string keys, an optional, or a union of configs told apart by their
`kind: Literal`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

T = TypeVar("T")


def load(path: str | Path, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Read `path`, merge it over the file it `extends`, apply `a.b=value` overrides, build `cls`.

    Raises:
        ValueError: unreadable YAML, unknown or missing key, wrong type; names file and key path.
        FileNotFoundError: if there is no such file.
    """
    tree = _read(Path(path))
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    return build(tree, cls, where=str(path))


def top_keys(path: str | Path) -> frozenset[str]:
    """What stands at the top of a config file and of those it extends: tells kinds of files apart.

    Raises:
        ValueError: unreadable YAML.
        FileNotFoundError: if there is no such file.
    """
    return frozenset(_read(Path(path)))


def build(tree: Any, cls: type[T], where: str) -> T:
    """Build `cls` from plain data; `where` starts every error message."""
    value: T = _convert(tree, cls, _Place(where))
    return value


def to_plain(config: Any) -> Any:
    """The inverse of `build`: dataclasses to dicts and lists that YAML and JSON can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"key {key!r} twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


def _read(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    if not path.is_file():
        extended = f" (extended by {children[-1]})" if children else ""
        raise FileNotFoundError(f"{path}: no such config file{extended}")
    if path.resolve() in [child.resolve() for child in children]:
        raise ValueError(f"{path}: extends itself, by way of {_names(children)}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected a mapping of keys, got {type(tree).__name__}")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ValueError(f"{path}: extends: expected the name of a file, got {parent!r}")
    return _merge(_read(path.parent / parent, (*children, path)), tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values of `over` win; mappings merge key by key, unless `over` names another `kind`."""
    if "kind" in over and over["kind"] != base.get("kind"):
        return over
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _parse_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    names = path.split(".")
    if not equals or not all(names):
        raise ValueError(f"override {override!r}: expected key.path=value")
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not valid YAML") from error
    for name in reversed(names):
        tree = {name: tree}
    return dict(tree)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A file and a path of keys in it: where a message points."""

    file: str
    keys: str = ""

    def key(self, name: Any) -> _Place:
        return _Place(self.file, f"{self.keys}.{name}" if self.keys else str(name))

    def item(self, index: int) -> _Place:
        return _Place(self.file, f"{self.keys}[{index}]")

    def error(self, text: str) -> ValueError:
        return ValueError(": ".join(part for part in (self.file, self.keys, text) if part))

    def expect(self, ok: bool, wanted: str, value: Any) -> None:
        if not ok:
            raise self.error(f"expected {wanted}, got {value!r}")


def _convert(value: Any, hint: Any, at: _Place) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass(value, hint, at)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(value, get_args(hint), at)
    if origin is Literal:
        at.expect(value in get_args(hint), f"one of {_names(get_args(hint))}", value)
        return value
    if origin is tuple:
        return _tuple(value, get_args(hint), at)
    if origin in (dict, Mapping):
        return _mapping(value, get_args(hint)[1], at)
    return _scalar(value, hint, at)


def _dataclass(value: Any, cls: type[Any], at: _Place) -> Any:
    at.expect(isinstance(value, dict), f"the keys of {cls.__name__}", value)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"known keys: {_names(fields)}"
            raise at.key(key).error(f"unknown key; {advice}")
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(value[name], hints[name], at.key(name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise at.key(name).error("missing key")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise at.error(str(error)) from error


def _union(value: Any, choices: tuple[Any, ...], at: _Place) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    if len(choices) == 1:
        return _convert(value, choices[0], at)
    kinds = {_kind(choice): choice for choice in choices}
    at.expect(isinstance(value, dict), "keys with a `kind`", value)
    kind = value.get("kind")
    at.key("kind").expect(isinstance(kind, str) and kind in kinds, f"one of {_names(kinds)}", kind)
    return _dataclass(value, kinds[kind], at)


def _kind(cls: Any) -> str:
    return str(get_args(typing.get_type_hints(cls)["kind"])[0])


def _tuple(value: Any, items: tuple[Any, ...], at: _Place) -> tuple[Any, ...]:
    at.expect(isinstance(value, list | tuple), "a list", value)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    at.expect(len(items) == len(value), f"a list of {len(items)} values", value)
    pairs = enumerate(zip(value, items, strict=True))
    return tuple(_convert(v, item, at.item(i)) for i, (v, item) in pairs)


def _mapping(value: Any, item: Any, at: _Place) -> dict[str, Any]:
    at.expect(isinstance(value, dict), "a mapping", value)
    for key in value:
        at.expect(isinstance(key, str), "keys that are text", key)
    return {key: _convert(v, item, at.key(key)) for key, v in value.items()}


def _scalar(value: Any, hint: Any, at: _Place) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        number = hint is float and isinstance(value, str)
        advice = " (YAML reads 1e-4 as text: write 1.0e-4)" if number else ""
        raise at.error(f"expected {hint.__name__}, got {value!r}{advice}")
    return value


def _names(names: Iterable[Any]) -> str:
    return ", ".join(str(name) for name in names)
