"""Compare every node of a configuration with the class or function that its `_target_` names, and build it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard, Union

from data.option_names import rename_options
from launch.cli import foreign_names
from runs.settings_tree import remember_options

MISSING = "???"
SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}


def locate(path: object, key: str) -> Callable[..., Any]:
    """Import the class or function at `path`, "module.Name"."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module or not name:
        raise ValueError(f"{key}._target_ is {path!r}, expected the path of a class or function, module.Name")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{key}._target_={path} cannot be imported: {error}") from error
    except AttributeError:
        raise ValueError(f"{key}._target_={path} does not exist: {module} has no {name}") from None


def suggest_name(word: str, valid: Iterable[str]) -> str:
    """The text `did you mean X? ` for the valid name that is closest to `word`; empty if none is close."""
    close = difflib.get_close_matches(word, list(valid), n=1)
    return f"did you mean {close[0]}? " if close else ""


def _valid(names: Sequence[str]) -> str:
    return f"valid: {', '.join(names)}" if names else "there are no options here"


@dataclass(frozen=True)
class Schema:
    """Checks a tree of settings and converts its values to the types of their fields (1 -> 1.0, 3 -> "3").

    Without `construct`, nodes stay dictionaries. With it, a node becomes what its `_target_` makes: a class is called,
    a function is bound to its options. For error messages, `set_in(key)` names the file that sets a key,
    `describe_missing(key)` says what to set a missing key to, and `extra_keys` are further valid keys of the top level.
    """

    root: Mapping[str, Any]
    construct: bool = False
    set_in: Callable[[str], str] = lambda key: ""
    describe_missing: Callable[[str], str] = lambda key: ""
    extra_keys: tuple[str, ...] = ()

    def convert_node(self, node: Mapping[str, Any], target: Callable[..., Any], key: str) -> Any:
        """Convert a node whose `_target_` is `target`. Raises ValueError with one line that names the key."""
        parameters = inspect.signature(target).parameters
        hints = type_hints(target)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        names = option_names(target)
        for name in node:
            if name not in names and name != "_target_" and not open_ended:
                raise ValueError(self.unknown_key(join_key(key, str(name)), names))
        values: dict[str, Any] = {}
        for name in names:
            required = parameters[name].default is inspect.Parameter.empty
            if node.get(name, MISSING) == MISSING and (required or name in node):
                raise ValueError(self.missing_key(join_key(key, name), hints.get(name, Any)))
        for name, value in node.items():
            if name != "_target_":
                values[name] = self.convert_value(value, hints.get(name, Any), join_key(key, name))
        if not self.construct:
            return {"_target_": node["_target_"], **values} if "_target_" in node else values
        return build_target(target, values, key)

    def convert_value(self, value: Any, hint: Any, key: str) -> Any:
        """Convert a value to the type `hint`, with the nodes inside it. Raises ValueError, which names key, value and
        type."""
        if isinstance(value, str) and value == MISSING:
            raise ValueError(self.missing_key(key, hint))
        kind, arguments = typing.get_origin(hint), typing.get_args(hint)
        members = arguments if kind in (Union, types.UnionType) else (hint,)
        if isinstance(value, Mapping) and "_target_" in value:
            target = locate(value["_target_"], key)
            bases = tuple(member for member in members if is_dataclass_type(member))
            if bases and not (isinstance(target, type) and issubclass(target, bases)):
                names = " or ".join(base.__name__ for base in bases)
                raise ValueError(f"{key}._target_={value['_target_']} is not a {names}")
            return self.convert_node(value, target, key)
        if members != (hint,):
            return self.convert_union(value, members, hint, key)
        if hint is Any or hint is object:
            return self.convert_untyped(value, key)
        if is_dataclass_type(hint) and isinstance(value, Mapping):
            return self.convert_node(value, hint, key)
        if kind is Literal and value in arguments:
            return value
        if hint in SCALARS:
            return self.convert_scalar(value, hint, key)
        container = kind or hint
        if isinstance(container, type) and issubclass(container, Mapping) and isinstance(value, Mapping):
            inner = arguments[1] if len(arguments) == 2 else Any
            return {name: self.convert_value(item, inner, join_key(key, str(name))) for name, item in value.items()}
        if is_sequence(container) and isinstance(value, list):
            inner = arguments[0] if arguments else Any
            items = [self.convert_value(item, inner, join_key(key, str(index))) for index, item in enumerate(value)]
            return tuple(items) if self.construct and container is tuple else items
        raise self.wrong_value(value, hint, key)

    def convert_union(self, value: Any, hints: Sequence[Any], hint: Any, key: str) -> Any:
        """Convert a value to the first of `hints` that accepts it. The value's own type comes before convertible
        ones."""
        if value is None and type(None) in hints:
            return None
        candidates = [member for member in hints if member is not type(None)]
        if len(candidates) == 1 and candidates[0] in SCALARS:
            with suppress(ValueError):
                return self.convert_value(value, candidates[0], key)
            raise self.wrong_value(value, hint, key)
        if len(candidates) == 1:
            return self.convert_value(value, candidates[0], key)
        lists = [member for member in candidates if is_sequence(typing.get_origin(member) or member)]
        if isinstance(value, list) and len(lists) == 1:
            return self.convert_value(value, lists[0], key)
        for member in sorted(candidates, key=lambda member: type(value) is not member):
            with suppress(ValueError):
                return self.convert_value(value, member, key)
        raise self.wrong_value(value, hint, key)

    def convert_scalar(self, value: Any, hint: type, key: str) -> Any:
        """Convert a boolean, number, string or path."""
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and (is_integer or (isinstance(value, float) and value.is_integer())):
            return int(value)
        if hint is float and (is_integer or isinstance(value, float)):
            return float(value)
        if hint is float and isinstance(value, str) and re.fullmatch(r"[+-]?\.inf", value, re.IGNORECASE):
            return float(value.replace(".", ""))  # YAML's infinity; on the command line Hydra reads it as a string
        if hint is str and (isinstance(value, str | float) or is_integer):
            return str(value)
        if hint is Path and isinstance(value, str):
            return Path(value) if self.construct else value
        raise self.wrong_value(value, hint, key)

    def convert_untyped(self, value: Any, key: str) -> Any:
        """Convert a value without a declared type: only the nodes inside it are checked."""
        if isinstance(value, Mapping):
            return {name: self.convert_value(item, Any, join_key(key, str(name))) for name, item in value.items()}
        if isinstance(value, list):
            return [self.convert_value(item, Any, join_key(key, str(index))) for index, item in enumerate(value)]
        return value

    def unknown_key(self, key: str, names: Sequence[str]) -> str:
        """The message for a key that is not an option."""
        name = key.rpartition(".")[2]
        if found := foreign_names.hint(key, self.root):
            return f"{key}{self.set_in(key)} is not an option: {found}{_valid(names)}"
        elsewhere = [other for other in leaf_keys(self.root) if other.rpartition(".")[2] == name and other != key]
        suggestion = suggest_name(name, [*names, *(() if "." in key else self.extra_keys)]) or (
            f"did you mean {elsewhere[0]}? " if elsewhere else ""
        )
        return f"{key}{self.set_in(key)} is not an option: {suggestion}{_valid(names)}"

    def missing_key(self, key: str, hint: Any) -> str:
        """The message for a required key that is not set."""
        return f"{key} is not set: set {key}=... ({self.describe_missing(key) or describe_type(hint)})"

    def wrong_value(self, value: Any, hint: Any, key: str) -> ValueError:
        """The error for a value that has another type."""
        return ValueError(f"{key}={value!r}{self.set_in(key)} is not {describe_type(hint)}")


def build_target(target: Callable[..., Any], values: Mapping[str, Any], key: str) -> Any:
    """Call a class with its options, or bind a function to them (its tensors are passed later)."""
    if not isinstance(target, type):
        return partial(target, **values) if values else target
    try:
        built = target(**values)
    except ValueError as error:
        message = _in_data_set(str(error), key, option_names(target))
        names_key = message.startswith(key.split(".")[0]) or not key
        raise ValueError(message if names_key else f"{key}: {message}") from error
    remember_options(built, values)
    return built


def _in_data_set(message: str, key: str, names: Sequence[str]) -> str:
    """The message of a data set's options, or of their `lists` or `candidates`, with the names that they have below
    `key`: data.dev_fraction is data.sources.NAME.dev_fraction in a mixture."""
    node, _, part = key.rpartition(".")
    if not key or not message.startswith("data."):
        return message
    return rename_options(message, node if part in ("lists", "candidates") else key, (*names, "lists", "candidates"))


def option_names(target: Callable[..., Any]) -> list[str]:
    """The names of the options of a target: all parameters of a class; of a function those that have a default or are
    keyword-only (the others are its tensors)."""
    named = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if isinstance(target, type):
        return list(named)
    return [name for name, p in named.items() if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]


def is_sequence(kind: Any) -> bool:
    """Whether a field of this type is written as a list."""
    return isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str


def is_dataclass_type(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and is_dataclass(hint)


def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The types of the target's options; empty if they cannot be resolved."""
    source = target.__init__ if isinstance(target, type) and not is_dataclass(target) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(source)
    except (NameError, TypeError):
        return {}


def describe_type(hint: Any) -> str:
    """Describe a type in words: "an integer", "a string or null", "one of a, b"."""
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return "a value"
    if hint is type(None):
        return "null"
    if kind is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
    if kind in (Union, types.UnionType):
        text = " or ".join(describe_type(member) for member in arguments if member is not type(None))
        return text if type(None) not in arguments else f"{text}{',' * (' or ' in text)} or null"
    container = kind or hint
    if isinstance(container, type) and issubclass(container, Mapping):
        return "a mapping"
    if is_sequence(container):
        return "a list" + (" of " + re.sub(r"^an? (\w+)", r"\1s", describe_type(arguments[0])) if arguments else "")
    return SCALARS.get(hint, f"a node with _target_ ({getattr(hint, '__name__', hint)})")


def join_key(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def leaf_keys(node: Mapping[str, Any], key: str = "") -> Iterable[str]:
    """The dotted keys of all values in a tree of mappings."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaf_keys(value, join_key(key, str(name)))
        else:
            yield join_key(key, str(name))
