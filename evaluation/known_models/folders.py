"""Which known model a local folder holds, from its place, its card and its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from evaluation.known_models.facts import KnownModel, Match, named
from models.loading.resolve import PACKAGES

MAX_BASES = 5  # a model of a model of a model ...: the cards of more are not read
CACHED = re.compile(r"models--(.+)--(.+)")  # a folder of the hub's cache
# file -> the key that names the model which training started from
CONFIGURATIONS = {"adapter_config.json": "base_model_name_or_path", "config.json": "_name_or_path"}


def find_folder(known: Mapping[str, KnownModel], folder: Path, bases: int = MAX_BASES) -> Match | None:
    """The known model of a folder (what counts: `KnownModels.find`). None if the folder does not exist."""
    if not folder.is_dir():
        return None
    if model := _by_place(known, folder.resolve()):
        return Match(model, "name")
    base = next(filter(None, (_of_base(known, name, bases) for name in _bases(folder))), None)
    by_name = named(known, folder.resolve().name)
    # A folder that is called like its base is a model trained from it; one called otherwise is that other model.
    if by_name and not (base and base.model is by_name):
        return Match(by_name, "folder_name")
    return base


def _by_place(known: Mapping[str, KnownModel], folder: Path) -> KnownModel | None:
    """The model whose folder this is: of the hub's cache, of an offline package, or of a path in a user's file."""
    for part in (found for part in folder.parts if (found := CACHED.fullmatch(part))):
        return named(known, f"{part[1]}/{part[2]}")
    for name, package in PACKAGES.items():
        home = package.find()
        if home and folder == (home / package.weights).parent.resolve():
            return named(known, name)
    for name, model in known.items():
        path = Path(name).expanduser()
        if path.is_dir() and path.resolve() == folder:
            return model
    return None


def _of_base(known: Mapping[str, KnownModel], name: str, bases: int) -> Match | None:
    model = named(known, name) if "/" in name else None
    if model is None and bases > 0 and (match := find_folder(known, Path(name).expanduser(), bases - 1)):
        model = match.model
    return Match(model, "base_model") if model else None


def _bases(folder: Path) -> Iterator[str]:
    """The names of base models in the card and the configurations of a folder. A broken file names none: the model is
    then merely not known."""
    names: list[Any] = []
    base = card_of(folder).get("base_model")
    names += base if isinstance(base, list) else [base]
    for file, key in CONFIGURATIONS.items():
        names.append(_parsed(folder / file, r"\A(.*)\Z").get(key))
    yield from (name for name in names if isinstance(name, str) and name.strip())


def card_of(folder: Path) -> dict[str, Any]:
    """The front matter of a model card (README.md) of a folder; empty if there is none."""
    return _parsed(folder / "README.md", r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)")


def _parsed(file: Path, pattern: str) -> dict[str, Any]:
    """The mapping in the part of a file that `pattern` matches (JSON is YAML too); empty if there is none."""
    try:
        found = re.search(pattern, file.read_text(encoding="utf-8"), re.DOTALL)
        content = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
