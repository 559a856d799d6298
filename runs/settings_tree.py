"""Convert the settings of a run from objects to plain dictionaries and lists, as in config.yaml, and to text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

_REMEMBERED = "_options_of_the_configuration"  # attribute of an object of a plain class


def as_tree(settings: Any) -> Any:
    """Convert objects to a tree of settings, the inverse of `instantiate`: every object becomes a mapping with its
    `_target_`.

    The mapping holds the fields of a dataclass; the keywords of a `functools.partial`; for other classes the options
    that `remember_options` has stored. Tuples become lists, paths strings. Raises ValueError if the options of an
    object are not known.
    """
    if isinstance(settings, Mapping):
        return {str(name): as_tree(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [as_tree(item) for item in settings]
    if isinstance(settings, Path):
        return str(settings)
    if settings is None or isinstance(settings, bool | int | float | str):
        return settings
    if isinstance(settings, partial):
        return {"_target_": _path_of(settings.func), **as_tree(settings.keywords)}
    if inspect.isroutine(settings):
        return {"_target_": _path_of(settings)}
    return {"_target_": _path_of(type(settings))} | {name: as_tree(value) for name, value in options_of(settings)}


def remember_options(settings: Any, options: Mapping[str, Any]) -> None:
    """Keep the options that an object of a plain class was built from. A dataclass keeps them by itself."""
    if not is_dataclass(settings):
        with suppress(AttributeError, TypeError):  # a class with __slots__, an object of C
            object.__setattr__(settings, _REMEMBERED, dict(options))


def is_node(settings: Any) -> bool:
    """Whether `settings` is an object of the configuration, whose options are known."""
    return not isinstance(settings, type) and (is_dataclass(settings) or hasattr(settings, _REMEMBERED))


def children_of(settings: Any) -> list[tuple[str, Any]]:
    """The parts of a tree of settings by name: the values of a mapping, the options of an object, nothing of others."""
    if isinstance(settings, Mapping):
        return [(str(name), value) for name, value in settings.items()]
    return options_of(settings) if is_node(settings) else []


def options_of(settings: Any) -> list[tuple[str, Any]]:
    """The options of an object of the configuration by name. Raises ValueError if they are not known."""
    if is_dataclass(settings):
        return [(field.name, getattr(settings, field.name)) for field in fields(settings) if field.init]
    if hasattr(settings, _REMEMBERED):
        return list(getattr(settings, _REMEMBERED).items())
    if inspect.signature(type(settings)).parameters:
        raise ValueError(f"the options of a {_path_of(type(settings))} are not known: make it a dataclass")
    return []


def _path_of(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def as_value(value: Any) -> str:
    """Write a value of a configuration in Hydra's grammar of settings.

    >>> as_value({"beta": 0.1, "dims": [8, 4], "kind": "joint", "bias": None, "soft": True})
    "{beta: 0.1, dims: [8, 4], kind: 'joint', bias: null, soft: true}"
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_value, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"
    return "null" if value is None else str(value).lower()
