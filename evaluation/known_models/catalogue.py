"""Published facts of models by hub id or folder: what launch/choose.py shows beside what it has measured.

The facts are data (published.yaml), each with its source and date; files of a user add to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from evaluation.known_models.facts import KnownModel, Match, named
from evaluation.known_models.folders import find_folder
from evaluation.known_models.reading import read_models

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class KnownModels:
    """All known models by name."""

    models: Mapping[str, KnownModel]

    def find(self, name: str) -> Match | None:
        """Find a model by hub id (in any case), by its last part if it is the only one, or by the folder that holds it.

        A folder is known by its place in the hub's cache or in an offline package, by its path in a user's file, by
        the base model that its card or configuration names, or by its own name. None if it is not known.
        """
        model = named(self.models, name)
        return Match(model, "name") if model else find_folder(self.models, Path(name).expanduser())


def known_models(files: Sequence[str | Path] = ()) -> KnownModels:
    """The published facts, with those of `files` before them (the last file first): what a user knows counts more.

    Raises ValueError or FileNotFoundError that names the file and the key if a file is not as docs/choosing.md says.
    """
    models = published()
    for file in files:
        models = merged(models, read_models(Path(file).expanduser(), known=models))
    return KnownModels(models)


@cache
def published() -> Mapping[str, KnownModel]:
    """The facts that come with the package."""
    return read_models(PUBLISHED, known={})


def merged(known: Mapping[str, KnownModel], new: Mapping[str, KnownModel]) -> dict[str, KnownModel]:
    """Add the facts of `new` before those of `known`; both remain, each with its source. The first spelling of a name
    counts."""
    models = dict(known)
    spelling = {name.casefold(): name for name in known}
    for name, model in new.items():
        old = known.get(spelling.get(name.casefold(), ""))
        if old is None:
            models[name] = model
            continue
        names = [*old.facts, *(fact for fact in model.facts if fact not in old.facts)]
        facts = {fact: (*model.facts.get(fact, ()), *old.facts.get(fact, ())) for fact in names}
        models[old.name] = replace(old, facts=facts, hosted=old.hosted or model.hosted)
    return models
