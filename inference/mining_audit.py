"""The audit of mined negatives: slots and why they are empty, scores, and negatives that may be relevant after all."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.hashing import stable_hash
from inference.mine import Selection, Window
from inference.mine_options import MineOptions

SAMPLES = 20  # queries that are shown to be judged by eye
KEPT_OUT = 3  # documents of a query that a margin refused and that are listed, the most suspicious ones
GAP_LIMIT = 0.2  # most that a score adds to the suspicion
QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "max": 1.0}
NO_RELEVANT = "no relevant document"
TOO_FEW = "too few documents"

# Why a document is suspected: the bits of `why`.
OUTSCORES, CLOSE, LIKE, NEAR = 1, 2, 4, 8
WHY = {
    OUTSCORES: "its score is at or above the positive's",
    CLOSE: "its score is within the margin of suspicion below the positive's",
    LIKE: "it is like a relevant document",
    NEAR: "it nearly equals a relevant text",
}
SUSPECT = np.dtype([
    ("query", np.int64), ("row", np.int64), ("score", np.float32), ("positive", np.float32), ("likeness", np.float32),
    ("negative", bool), ("why", np.uint8),
])  # fmt: skip

Likeness = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MinedQuery:
    """What one query got. `place`: its number in the split. `relevant`: the rows of its relevant documents, with their
    scores. `found`: the rows of those that the search ranked before the window's end. `selection` is None without a
    relevant document."""

    place: int
    query_id: str
    relevant: np.ndarray
    relevant_scores: np.ndarray
    selection: Selection | None = None
    passed: Counter[str] = field(default_factory=Counter)
    found: tuple[int, ...] = ()
    suspects: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=SUSPECT))

    @property
    def num_filled(self) -> int:
        return 0 if self.selection is None else len(self.selection.rows)


def suspicion(suspects: np.ndarray) -> np.ndarray:
    """How suspicious each of SUSPECT [n] is, by which they are ordered: its likeness to a relevant document, plus how
    far its score is above the lowest positive's, as a share of that and at most GAP_LIMIT (below it: minus)."""
    gap = gap_of(suspects["score"], suspects["positive"])
    likeness = np.where(suspects["why"] & NEAR, np.float32(1.0), suspects["likeness"])
    return likeness + np.clip(np.nan_to_num(gap), -GAP_LIMIT, GAP_LIMIT)


def gap_of(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """How far scores are above the positive's, as a share of its size."""
    size = np.abs(positive)
    return (scores - positive) / np.where(size > 0, size, np.float32(1.0))


def suspects_of(
    query: MinedQuery,
    window: Window,
    scores: np.ndarray,
    likeness: Likeness,
    threshold: float,
    options: MineOptions,
    *,
    is_rescored: bool,
) -> np.ndarray:
    """The documents of a query that may be relevant after all, SUSPECT [n].

    They are its negatives whose score is at or above the lowest positive's or within `suspect_margin` of it, or whose
    `likeness` to a relevant document reaches the `threshold`; likewise of the documents that a margin kept out those
    that are so like, and its KEPT_OUT most suspicious ones; and those that nearly equal a relevant text. `scores` are
    those of the window's documents, by the reranker if the window `is_rescored`.
    """
    selection = query.selection
    assert selection is not None
    near_rows = np.array([row for row, _ in window.near], dtype=np.int64)
    near_scores = np.array([np.nan if is_rescored else score for _, score in window.near], dtype=np.float32)
    parts = [
        (selection.rows, selection.scores, True, 0),
        (window.rows[selection.kept_out], scores[selection.kept_out], False, 0),
        (near_rows, near_scores, False, NEAR),
    ]
    found = np.empty(sum(len(rows) for rows, *_ in parts), dtype=SUSPECT)
    if not len(found):
        return found
    found["query"], found["positive"] = query.place, query.relevant_scores.min()
    found["row"] = np.concatenate([rows for rows, *_ in parts])
    found["score"] = np.concatenate([values for _, values, *_ in parts])
    found["negative"] = np.concatenate([np.full(len(rows), negative) for rows, _, negative, _ in parts])
    found["why"] = np.concatenate([np.full(len(rows), why, dtype=np.uint8) for rows, *_, why in parts])
    found["likeness"] = likeness(found["row"], query.relevant)
    gap = gap_of(found["score"], found["positive"])
    found["why"] |= np.where(gap >= 0, OUTSCORES, np.where(gap >= -options.suspect_margin, CLOSE, 0)).astype(np.uint8)
    found["why"] |= np.where(found["likeness"] >= threshold, LIKE, 0).astype(np.uint8)
    listed = np.where(found["negative"], found["why"] > 0, found["why"] & (LIKE | NEAR) > 0)
    kept_out = np.flatnonzero(~found["negative"])
    listed[kept_out[np.argsort(-suspicion(found[kept_out]), kind="stable")[:KEPT_OUT]]] = True
    return found[listed]


@dataclass
class Audit:
    """Counts of all mined queries. `slots` are the places for negatives. `unfilled` counts the empty ones by reason,
    `empty_queries` the queries with a relevant document that got no negative, `passed` the documents that took no rank,
    `refused` those of the window that a filter refused."""

    options: MineOptions
    seed: int
    queries: int = 0
    full_queries: int = 0
    empty_queries: int = 0
    filled: int = 0
    window: int = 0
    not_drawn: int = 0
    unfilled: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    left_out: int = 0  # rows that the output cannot hold
    positive_scores: list[np.ndarray] = field(default_factory=list)
    negative_scores: list[np.ndarray] = field(default_factory=list)
    differences: list[np.ndarray] = field(default_factory=list)
    suspected: list[np.ndarray] = field(default_factory=list)
    _samples: list[tuple[int, int, MinedQuery]] = field(default_factory=list)

    @property
    def slots(self) -> int:
        return self.queries * self.options.num_negatives

    def add(self, query: MinedQuery) -> None:
        """Count one query."""
        self.queries += 1
        if query.selection is None:
            self.unfilled[NO_RELEVANT] += self.options.num_negatives
            return
        selection = query.selection
        self.filled += query.num_filled
        self.full_queries += query.num_filled == self.options.num_negatives
        self.empty_queries += query.num_filled == 0
        self.unfilled += selection.unfilled
        self.passed += query.passed
        self.refused += selection.refused
        self.not_drawn += selection.not_drawn
        self.window += sum(selection.refused.values()) + selection.not_drawn + int((selection.ranks > 0).sum())
        self.positive_scores.append(query.relevant_scores)
        self.negative_scores.append(selection.scores)
        self.differences.append(query.relevant_scores.min() - selection.scores)
        if len(query.suspects):
            self.suspected.append(query.suspects)
        if query.num_filled:
            self._keep_sample(query)

    def _keep_sample(self, query: MinedQuery) -> None:
        """Keep the queries with the lowest hashes: a sample that depends on the seed alone."""
        entry = (-stable_hash("sample", self.seed, query.query_id), query.place, query)
        if len(self._samples) < SAMPLES:
            heapq.heappush(self._samples, entry)
        else:
            heapq.heappushpop(self._samples, entry)

    @property
    def samples(self) -> list[MinedQuery]:
        """The queries of the sample, in the order of the data."""
        return [query for _, _, query in sorted(self._samples, key=lambda entry: entry[1])]

    def suspects(self) -> np.ndarray:
        """All suspects, SUSPECT [n], the most suspicious first."""
        found = np.concatenate([np.empty(0, dtype=SUSPECT), *self.suspected])
        return found[np.lexsort((found["row"], found["query"], -suspicion(found)))]

    def distributions(self) -> dict[str, dict[str, float]]:
        """Number, mean, standard deviation and quantiles of scores."""
        parts = {"positive": self.positive_scores, "negative": self.negative_scores, "difference": self.differences}
        return {name: distribution(joined(scores)) for name, scores in parts.items()}


def joined(scores: list[np.ndarray]) -> np.ndarray:
    """All scores, float64."""
    return np.concatenate([np.empty(0), *scores])


def distribution(values: np.ndarray) -> dict[str, float]:
    """Number, mean, standard deviation and quantiles; the number alone if there are none."""
    if not len(values):
        return {"number": 0}
    found = {"number": len(values), "mean": float(values.mean()), "deviation": float(values.std())}
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return found | {name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)}


def why_suspected(why: int) -> list[str]:
    """The reasons of a suspect in words."""
    return [text for bit, text in WHY.items() if why & bit]


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with four digits after the point."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
