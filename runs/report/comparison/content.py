"""What a page of several runs shows, before it becomes HTML or a W&B Report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Points = Sequence[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Table:
    """A table of texts. `top` are the (row, column) of the best values; `is_open`: shown before a click."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    top: frozenset[tuple[int, int]] = frozenset()
    is_open: bool = True


@dataclass(frozen=True)
class Curve:
    """The points of a run in one picture, by stage ("" in a run without stages)."""

    number: int
    name: str
    parts: Mapping[str, Points]


@dataclass(frozen=True)
class Picture:
    """Curves of several runs over steps. `smooth`: a running mean is drawn; `dots`: the points are shown."""

    title: str
    curves: Sequence[Curve]
    smooth: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Ranking:
    """One ranker of one run, by which test queries can be compared: `values[query]` and `documents[query]`."""

    label: str
    values: Mapping[str, float]
    documents: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Pair:
    """Two rankings over all queries that both have: how many the second ranks better, worse and alike, and the mean
    difference (second - first; 0 without a common query)."""

    queries: int
    won: int
    lost: int
    tied: int
    difference: float


@dataclass(frozen=True)
class QueryComparison:
    """The test queries of all rankings. `listed` are the ids on which the rankings differ most; `pairs` are by the
    places of two rankings, the smaller first; `first` are those of the pair that is shown at first."""

    metric: str
    rankings: Sequence[Ranking]
    texts: Mapping[str, str]
    listed: Sequence[str]
    pairs: Mapping[tuple[int, int], Pair]
    first: tuple[int, int]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """All that is said about some runs, in the order in which it is shown. `opening` is the page's own first part, as
    HTML: that of an ablation."""

    title: str
    lead: str
    legend: Mapping[int, str]  # number of a run -> its name
    warnings: Sequence[str]
    results: Sequence[Table]
    pictures: Sequence[Picture]
    picture_notes: Sequence[str]
    queries: QueryComparison | None
    facts: Sequence[Table]  # cost, settings, environment
    opening: Sequence[str] = ()
