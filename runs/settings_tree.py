"""The settings of a run as plain dictionaries and lists: what config.yaml holds, made of the objects that train."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any


def as_tree(settings: Any) -> Any:
    """The inverse of building objects from a configuration: every object becomes a mapping with its `_target_`.

    A dataclass gives its fields; a function that was bound to options, these; an object of another class, those of its
    attributes that bear the name of a parameter of its `__init__`. Tuples become lists, paths strings.
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
    return {"_target_": _path_of(type(settings))} | {name: as_tree(value) for name, value in _options(settings)}


def _options(settings: Any) -> list[tuple[str, Any]]:
    if is_dataclass(settings):
        names = [field.name for field in fields(settings) if field.init]
    else:
        names = [name for name in inspect.signature(type(settings)).parameters if hasattr(settings, name)]
    return [(name, getattr(settings, name)) for name in names]


def _path_of(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"
