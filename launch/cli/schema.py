"""Compare every node of a configuration with the target it names, key by key and type by type, and build it."""

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

from runs.settings_tree import remember_options

MISSING = "???"
SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}


def locate(path: object, key: str) -> Callable[..., Any]:
    """The class or function at `path`, "module.Name"."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module or not name:
        raise ValueError(f"{key}._target_ is {path!r}, expected the path of a class or function, module.Name")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{key}._target_={path} cannot be imported: {error}") from error
    except AttributeError:
        raise ValueError(f"{key}._target_={path} does not exist: {module} has no {name}") from None


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """`did you mean X? ` or nothing."""
    close = difflib.get_close_matches(word, list(valid), n=1)
    return f"did you mean {close[0]}? " if close else ""


@dataclass(frozen=True)
class Schema:
    """Walks a plain configuration. For the messages, `origin(key)` names the file that sets `key`, `advice(key)` says
    what to set a missing one to, and `also` are further words of the top level.

    Without `construct`, nodes stay dictionaries, with values converted to their field's type (1 -> 1.0, 3 -> "3");
    with it, a node becomes what its `_target_` returns (a class is called, a function is bound to its options).
    """

    root: Mapping[str, Any]
    construct: bool = False
    origin: Callable[[str], str] = lambda key: ""
    advice: Callable[[str], str] = lambda key: ""
    also: tuple[str, ...] = ()

    def node(self, node: Mapping[str, Any], target: Callable[..., Any], key: str) -> Any:
        """`node`, compared with `target`'s fields. Raises ValueError with one line that names the key."""
        parameters = inspect.signature(target).parameters
        hints = type_hints(target)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        names = options(target)
        for name in node:
            if name not in names and name != "_target_" and not open_ended:
                raise ValueError(self.unknown(join(key, str(name)), names))
        values: dict[str, Any] = {}
        for name in names:
            required = parameters[name].default is inspect.Parameter.empty
            if node.get(name, MISSING) == MISSING and (required or name in node):
                raise ValueError(self.missing(join(key, name), hints.get(name, Any)))
        for name, value in node.items():
            if name != "_target_":
                values[name] = self.value(value, hints.get(name, Any), join(key, name))
        if not self.construct:
            return {"_target_": node["_target_"], **values} if "_target_" in node else values
        return build(target, values, key)

    def value(self, value: Any, hint: Any, key: str) -> Any:
        """`value` as a `hint`, nodes inside it checked. Raises ValueError naming key, value and expected type."""
        if isinstance(value, str) and value == MISSING:
            raise ValueError(self.missing(key, hint))
        kind, arguments = typing.get_origin(hint), typing.get_args(hint)
        members = arguments if kind in (Union, types.UnionType) else (hint,)
        if isinstance(value, Mapping) and "_target_" in value:
            target = locate(value["_target_"], key)
            bases = tuple(member for member in members if is_dataclass_type(member))
            if bases and not (isinstance(target, type) and issubclass(target, bases)):
                names = " or ".join(base.__name__ for base in bases)
                raise ValueError(f"{key}._target_={value['_target_']} is not a {names}")
            return self.node(value, target, key)
        if members != (hint,):
            return self.union(value, members, hint, key)
        if hint is Any or hint is object:
            return self.anything(value, key)
        if is_dataclass_type(hint) and isinstance(value, Mapping):
            return self.node(value, hint, key)
        if kind is Literal and value in arguments:
            return value
        if hint in SCALARS:
            return self.scalar(value, hint, key)
        container = kind or hint
        if isinstance(container, type) and issubclass(container, Mapping) and isinstance(value, Mapping):
            inner = arguments[1] if len(arguments) == 2 else Any
            return {name: self.value(item, inner, join(key, str(name))) for name, item in value.items()}
        if is_sequence(container) and isinstance(value, list):
            inner = arguments[0] if arguments else Any
            items = [self.value(item, inner, join(key, str(index))) for index, item in enumerate(value)]
            return tuple(items) if self.construct and container is tuple else items
        raise self.wrong(value, hint, key)

    def union(self, value: Any, hints: Sequence[Any], hint: Any, key: str) -> Any:
        """`value` as the first of `hints` that takes it: its own type before a convertible one."""
        if value is None and type(None) in hints:
            return None
        candidates = [member for member in hints if member is not type(None)]
        if len(candidates) == 1:
            return self.value(value, candidates[0], key)
        lists = [member for member in candidates if is_sequence(typing.get_origin(member) or member)]
        if isinstance(value, list) and len(lists) == 1:
            return self.value(value, lists[0], key)
        for member in sorted(candidates, key=lambda member: type(value) is not member):
            with suppress(ValueError):
                return self.value(value, member, key)
        raise self.wrong(value, hint, key)

    def scalar(self, value: Any, hint: type, key: str) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and (whole or (isinstance(value, float) and value.is_integer())):
            return int(value)
        if hint is float and (whole or isinstance(value, float)):
            return float(value)
        if hint is float and isinstance(value, str) and re.fullmatch(r"[+-]?\.inf", value, re.IGNORECASE):
            return float(value.replace(".", ""))  # as YAML writes it; on the command line Hydra reads a string
        if hint is str and (isinstance(value, str | float) or whole):
            return str(value)
        if hint is Path and isinstance(value, str):
            return Path(value) if self.construct else value
        raise self.wrong(value, hint, key)

    def anything(self, value: Any, key: str) -> Any:
        """A value without a type: only the nodes inside it are checked."""
        if isinstance(value, Mapping):
            return {name: self.value(item, Any, join(key, str(name))) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, Any, join(key, str(index))) for index, item in enumerate(value)]
        return value

    def unknown(self, key: str, names: Sequence[str]) -> str:
        name = key.rpartition(".")[2]
        elsewhere = [found for found in leaves(self.root) if found.rpartition(".")[2] == name and found != key]
        guess = did_you_mean(name, [*names, *(() if "." in key else self.also)]) or (
            f"did you mean {elsewhere[0]}? " if elsewhere else ""
        )
        return f"{key}{self.origin(key)} is not an option: {guess}valid: {', '.join(names) or 'none'}"

    def missing(self, key: str, hint: Any) -> str:
        return f"{key} is not set: set {key}=... ({self.advice(key) or describe(hint)})"

    def wrong(self, value: Any, hint: Any, key: str) -> ValueError:
        return ValueError(f"{key}={value!r}{self.origin(key)} is not {describe(hint)}")


def build(target: Callable[..., Any], values: Mapping[str, Any], key: str) -> Any:
    """A class is called with its options; a function is bound to them (its tensors come later)."""
    if not isinstance(target, type):
        return partial(target, **values) if values else target
    try:
        built = target(**values)
    except ValueError as error:
        known = str(error).startswith(key.split(".")[0]) or not key
        raise ValueError(str(error) if known else f"{key}: {error}") from error
    remember_options(built, values)
    return built


def options(target: Callable[..., Any]) -> list[str]:
    """The parameters of a class; of a function those with a default or keyword-only (the others are its tensors)."""
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
    """The types of the target's options, {} where they cannot be resolved."""
    source = target.__init__ if isinstance(target, type) and not is_dataclass(target) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(source)
    except (NameError, TypeError):
        return {}


def describe(hint: Any) -> str:
    """A type in words: "an integer", "a string or null", "one of a, b"."""
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return "a value"
    if hint is type(None):
        return "null"
    if kind is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if kind in (Union, types.UnionType):
        return " or ".join(describe(member) for member in arguments)
    container = kind or hint
    if isinstance(container, type) and issubclass(container, Mapping):
        return "a mapping"
    if is_sequence(container):
        return "a list" + (" of " + re.sub(r"^an? (\w+)", r"\1s", describe(arguments[0])) if arguments else "")
    return SCALARS.get(hint, f"a node with _target_ ({getattr(hint, '__name__', hint)})")


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def leaves(node: Mapping[str, Any], key: str = "") -> Iterable[str]:
    """The dotted keys of all values in a tree of mappings."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, join(key, str(name)))
        else:
            yield join(key, str(name))
