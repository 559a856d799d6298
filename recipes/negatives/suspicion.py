"""Which negatives are likely relevant: those that a judge scores almost as high as the positives of their query."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Scores = Mapping[str, float]  # of the documents of a query


@dataclass(frozen=True)
class Judgement:
    """What the judges say of one negative. `closeness`, one per judge: 0 is the score of the median negative of all
    queries, 1 that of the query's lowest positive, -inf is that of a judge which does not tell this positive from a
    median negative."""

    query: str
    document: str
    scores: tuple[float, ...]
    closeness: tuple[float, ...]

    def agreement(self, threshold: float) -> float:
        """The share of the judges for whom the document is at least as close to the positives as `threshold`."""
        return sum(value >= threshold for value in self.closeness) / len(self.closeness)


@dataclass(frozen=True)
class Judge:
    """The scores of one model: the median of the negatives of all queries, and their median distance from it."""

    median: float
    spread: float

    @classmethod
    def of(cls, lists: Iterable[tuple[Scores, Scores]]) -> Judge:
        """A judge by its scores of the positives and of the negatives of each query."""
        negatives = np.fromiter((score for _, others in lists for score in others.values()), dtype=np.float32)
        if not len(negatives):
            return cls(0.0, 0.0)
        median = float(np.median(negatives))
        return cls(median, float(np.median(np.abs(negatives - median))))

    def closeness(self, score: float, lowest_positive: float) -> float:
        """(score - median) / (lowest positive - median), which neither scale nor shift of the scores changes; -inf if
        the judge does not tell the positive from negatives: it is no further above their median than half of them
        are from it."""
        gap = lowest_positive - self.median
        return (score - self.median) / gap if gap > self.spread else -math.inf


def judged(
    query: str, positives: Sequence[str], negatives: Sequence[str], judges: Sequence[tuple[Judge, Scores]]
) -> list[Judgement]:
    """The judgements of the negatives of a query; none if no judge tells its lowest positive from negatives."""
    lowest = [min(scores[positive] for positive in positives) for _, scores in judges]
    found = []
    for document in negatives:
        scores = tuple(of_judge[document] for _, of_judge in judges)
        values = zip(judges, scores, lowest, strict=True)
        closeness = tuple(judge.closeness(score, positive) for (judge, _), score, positive in values)
        if max(closeness) > -math.inf:
            found.append(Judgement(query, document, scores, closeness))
    return found
