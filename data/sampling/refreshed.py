"""Candidates that training has refreshed, before those of the first stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from data.collection import Candidates


class RefreshedCandidates(Mapping[str, list[tuple[str, float]]]):
    """The `refreshed` candidates of a query, best first, then those of the `first_stage` that are not among them.

    A query without refreshed ones has those of the first stage. The two kinds of scores cannot be compared.
    """

    def __init__(self, refreshed: Candidates, first_stage: Candidates) -> None:
        self.refreshed, self.first_stage = refreshed, first_stage

    def __len__(self) -> int:
        return len(self.first_stage)

    def __iter__(self) -> Iterator[str]:
        return iter(self.first_stage)

    def __getitem__(self, query: str) -> list[tuple[str, float]]:
        first_stage, refreshed = self.first_stage[query], self.refreshed.get(query)
        if not refreshed:
            return first_stage
        found = {document for document, _ in refreshed}
        return [*refreshed, *(pair for pair in first_stage if pair[0] not in found)]
