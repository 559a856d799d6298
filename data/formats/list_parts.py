"""What a split has of the lists of its queries: texts, grades, weights, candidates. Each is a view of the lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.collection import Candidates, Judgements
from data.formats.grouping import QueryGroup, labels_of
from data.hashing import stable_hash
from data.views import Derived

Lists = Mapping[str, QueryGroup]  # query id -> its list


@dataclass(frozen=True)
class FoundInLists:
    """What the lists of a split have, found by going over them once."""

    levels: set[float]
    has_weights: bool
    has_prompts: bool
    all_have_positives: bool

    @classmethod
    def of(cls, lists: Lists) -> FoundInLists:
        levels: set[float] = set()
        weights = prompts = False
        positives = True
        for entry in lists.values():
            levels.update(entry.labels.values())
            weights = weights or entry.weight != 1
            prompts = prompts or entry.prompt is not None
            positives = positives and entry.has_positive
        return cls(levels, weights, prompts, positives)

    def weights(self, lists: Lists) -> Mapping[str, float]:
        """The weights that are not 1."""
        if not self.has_weights:
            return {}
        return Derived(lists, lambda _, entry: entry.weight, lambda entry: entry.weight != 1)

    def prompts(self, lists: Lists) -> Mapping[str, str]:
        """The prompts of the queries that have one."""
        if not self.has_prompts:
            return {}
        return Derived(lists, lambda _, entry: entry.prompt, lambda entry: entry.prompt is not None)


def in_memory(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dict of what a view gives."""
    return dict(mapping.items())


def queries_of(lists: Lists) -> Mapping[str, str]:
    """The texts of the queries."""
    return Derived(lists, lambda _, entry: entry.query)


def evaluated_of(lists: Lists) -> Lists:
    """The lists that can be evaluated."""
    return Derived(lists, lambda _, entry: entry, lambda entry: entry.can_be_evaluated)


def grades_of(split: str, lists: Lists, scale: int) -> Judgements:
    """The grades: labels times `scale`. Those of dev and test are of lists that can be evaluated."""
    keep = None if split == "train" else lambda entry: entry.can_be_evaluated
    return Derived(lists, lambda _, entry: entry.grades(scale), keep)


def split_labels(split: str, lists: Lists, *, exact: bool) -> Mapping[str, dict[str, float]]:
    """The labels of a split: those of dev and test only if `exact` ones are needed, or the grades do not have all."""
    if split == "train":
        return Derived(lists, lambda _, entry: entry.labels)
    return labels_of(lists) if exact or not all(entry.can_be_evaluated for entry in lists.values()) else {}


def training_candidates(lists: Lists, added: Candidates) -> Candidates:
    """The documents of each list with the teacher's scores, then those that are added, without one."""

    def of(query_id: str, entry: QueryGroup) -> list[tuple[str, float]]:
        others = ((document, math.nan) for document, _ in added.get(query_id, ()) if document not in entry.labels)
        return [*entry.scores.items(), *others]

    return Derived(lists, of)


def listed_candidates(lists: Lists) -> Candidates:
    """The documents of each list by the teacher's scores unless the labels come from these; ties are in random
    order."""

    def of(query_id: str, entry: QueryGroup) -> list[tuple[str, float]]:
        scores = entry.scores if entry.is_scored else dict.fromkeys(entry.scores, 0.0)
        return sorted(scores.items(), key=lambda item: (-item[1], stable_hash("place", query_id, item[0])))

    return Derived(lists, of)


def no_candidates(lists: Lists) -> Candidates:
    """An empty list for each query that cannot be evaluated."""
    return Derived(lists, lambda *_: [], lambda entry: not entry.can_be_evaluated)
