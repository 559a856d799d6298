"""A fact about a model, with its source and date, and a model with its facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Value = int | float | str | tuple[str, ...] | tuple[int, ...] | Mapping[str, float] | Mapping[str, str]
Kind = Literal["embedder", "reranker", "multi_vector"]
KnownBy = Literal["name", "folder_name", "base_model"]


@dataclass(frozen=True)
class Fact:
    """One statement about a model: the value, who says so (a URL or a text), when, and under which conditions."""

    value: Value
    source: str
    date: str  # YYYY-MM-DD or YYYY-MM: of publication; of an undated page, when it was read
    note: str = ""


@dataclass(frozen=True)
class KnownModel:
    """A model and its facts by name (`reading.FACTS`). A fact that sources disagree on has several values."""

    name: str
    kind: Kind
    facts: Mapping[str, tuple[Fact, ...]]
    hosted: bool = False  # reached by an API alone, without weights

    def fact(self, name: str) -> Fact | None:
        """The first source's statement; None if nothing is known."""
        return next(iter(self.facts.get(name, ())), None)

    def on_set(self, name: str) -> tuple[Fact, ...]:
        """The published nDCG@10 (0 to 100) on a set of BEIR, such as `scifact`, one per source."""
        stated = ((fact, fact.value) for fact in self.facts.get("beir_by_set", ()))
        found = (
            (fact, {key.casefold(): value for key, value in values.items()})
            for fact, values in stated
            if isinstance(values, Mapping)
        )
        key = name.casefold()
        return tuple(replace(fact, value=values[key]) for fact, values in found if key in values)


@dataclass(frozen=True)
class Match:
    """A known model for a name or folder. Figures of a base model are not those of a model trained from it."""

    model: KnownModel
    known_by: KnownBy

    @property
    def caveat(self) -> str:
        """What to say beside the facts; empty if the model itself was named."""
        if self.known_by == "base_model":
            return f"facts of its base model {self.model.name}"
        return f"taken for {self.model.name} by the folder's name" if self.known_by == "folder_name" else ""


def named(models: Mapping[str, KnownModel], name: str) -> KnownModel | None:
    """The model of a hub id in any case, or of an id's last part if only one model has it."""
    wanted = name.strip().casefold()
    for known, model in models.items():
        if known.casefold() == wanted:
            return model
    last = [model for known, model in models.items() if known.rpartition("/")[2].casefold() == wanted]
    return last[0] if len(last) == 1 else None
