"""Mine the negatives of queries, group by group: search, window, reranker, selection. All ranks work together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from data.collection import Collection, Split
from data.progress import show_progress
from data.sampling.never_negatives import NeverNegatives
from data.sampling.never_rows import CorpusTexts, NeverRows, NeverRowsOfQueries
from data.store.texts import ids_of
from engines.distributed.collectives import gather_objects
from engines.distributed.process_group import rank, world_size
from inference.mine import Window, draw_random, select, window_of
from inference.mine_options import MineOptions
from inference.mining_audit import MinedQuery, suspects_of
from recipes.negatives.corpus import MiningCorpus
from recipes.negatives.rescoring import Rescorer
from recipes.negatives.searchers import Found, Searcher
from recipes.negatives.stored import StoredParts, ragged, unragged

logger = logging.getLogger(__name__)

T = TypeVar("T")

GROUP = 8192  # queries that are searched at once: what a killed process loses, and what memory holds
MOST_RESERVED = 1000  # documents that are ranked beside the window for those of a query that are no negatives
RESERVED = 16  # of them for copies and nearly equal texts


@dataclass(frozen=True)
class Asked:
    """What a query asks the search for beside its ranking: rows of relevant documents, and of random ones."""

    relevant: np.ndarray
    drawn: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate([self.relevant, self.drawn])


@dataclass
class Miner:
    """Mines the queries of one split of a collection over a corpus."""

    collection: Collection
    split: Split
    split_name: str
    corpus: MiningCorpus
    texts: CorpusTexts
    searcher: Searcher
    rescorer: Rescorer | None
    options: MineOptions
    seed: int
    depth: int
    found: StoredParts
    query_ids: Sequence[str] = field(init=False)
    rules: NeverRowsOfQueries = field(init=False)

    def __post_init__(self) -> None:
        self.query_ids = ids_of(self.split.queries)
        never = NeverNegatives({self.collection.name: self.collection}, self.split_name)
        self.rules = NeverRowsOfQueries(never, self.collection.name, self.texts, self.options.near_duplicate)

    @property
    def groups(self) -> list[range]:
        """The numbers of the queries of each group."""
        total = len(self.query_ids)
        return [range(start, min(start + GROUP, total)) for start in range(0, total, GROUP)]

    def __iter__(self) -> Iterator[MinedQuery]:
        """What each query got, in their order, on every rank."""
        for number, group in enumerate(show_progress(self.groups, "mining", len(self.groups), "groups")):
            yield from self._mine(number, group)

    def _mine(self, number: int, group: range) -> list[MinedQuery]:
        own = group[len(group) * rank() // world_size() : len(group) * (rank() + 1) // world_size()]
        rules = {place: self._rule(place) for place in own}
        asked = gathered([self._asked(rules[place], place) for place in own])
        found = self._search(number, group, asked)
        windows = {place: self._window(rules[place], found, place - group.start) for place in own}
        offset = group.start
        scores: dict[int, tuple[np.ndarray, np.ndarray]] = {
            place: (windows[place].scores, found.wanted[place - offset]) for place in own
        }
        if self.rescorer is not None:
            scores = self._rescore(group, windows, asked)
        return gathered([self._select(place, windows[place], *scores[place], asked[place - offset]) for place in own])

    def _relevant_rows(self, query_id: str) -> dict[str, int]:
        judged = self.split.judgements.get(query_id, {})
        rows = {name: self.corpus.row(name) for name, grade in judged.items() if grade > 0}
        assert None not in rows.values(), f"the corpus lacks a relevant document of {query_id}"
        return {name: row for name, row in rows.items() if row is not None}

    def _rule(self, place: int) -> NeverRows:
        query_id = self.query_ids[place]
        excluded = {name: self.corpus.row(name) for name in self.collection.excluded.get(query_id, ())}
        return self.rules.of(query_id, self._relevant_rows(query_id), excluded)

    def _asked(self, rule: NeverRows, place: int) -> Asked:
        query_id = self.query_ids[place]
        relevant = np.array(list(self._relevant_rows(query_id).values()), dtype=np.int64)
        key = (self.seed, query_id)
        drawn = draw_random(len(self.texts), rule.reason, self.texts.key, self.options, key)
        return Asked(relevant, drawn if len(relevant) else drawn[:0])

    def _search(self, number: int, group: range, asked: Sequence[Asked]) -> Found:
        """The rankings of a group, from the cache if they are there."""

        def search() -> dict[str, np.ndarray]:
            found = self.searcher.search(slice(group.start, group.stop), [each.rows for each in asked], self.depth)
            wanted, ends = ragged(found.wanted, np.float32)
            return {"rows": found.rows, "scores": found.scores, "wanted": wanted, "ends": ends}

        arrays = self.found.get(number, search)
        wanted = unragged(arrays["wanted"], arrays["ends"])
        found = Found(arrays["rows"], arrays["scores"], wanted)
        ranked = [scores[rows >= 0] for rows, scores in zip(found.rows, found.scores, strict=True)]
        check_finite(self.searcher.name, self.query_ids[group.start : group.stop], ranked, wanted)
        return found

    def _window(self, rule: NeverRows, found: Found, number: int) -> Window:
        rows, scores = found.rows[number], found.scores[number]
        some = rows >= 0
        return window_of(rows[some].tolist(), scores[some].tolist(), rule.reason, self.texts.key, self.options)

    def _rescore(
        self, group: range, windows: dict[int, Window], asked: Sequence[Asked]
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The reranker's scores of the windows and of what is asked for, by the place of the query."""
        assert self.rescorer is not None
        rows = gathered([window.rows for window in windows.values()])
        lists = [
            (self.query_ids[place], np.concatenate([row, each.rows]) if len(each.relevant) else row[:0])
            for place, row, each in zip(group, rows, asked, strict=True)
        ]
        scored = self.rescorer.score(group.start, lists)
        check_finite(self.rescorer.name, self.query_ids[group.start : group.stop], scored)
        sizes = {place: len(row) for place, row in zip(group, rows, strict=True)}
        return {
            place: (scored[place - group.start][: sizes[place]], scored[place - group.start][sizes[place] :])
            for place in windows
        }

    def _select(self, place: int, window: Window, scores: np.ndarray, wanted: np.ndarray, asked: Asked) -> MinedQuery:
        query_id = self.query_ids[place]
        count = len(asked.relevant)
        mined = MinedQuery(place, query_id, asked.relevant, wanted[:count])
        if not count:
            return mined
        keys = np.array([self.texts.key(row) for row in asked.drawn.tolist()], dtype=np.int64)
        drawn = (asked.drawn, wanted[count:], keys)
        selection = select(window, scores, wanted[:count], drawn, self.options, (self.seed, query_id))
        mined = replace(mined, selection=selection, passed=window.passed, found=window.relevant)
        suspects = suspects_of(
            mined,
            window,
            scores,
            self.searcher.likeness,
            self.searcher.alike_from,
            self.options,
            is_rescored=self.rescorer is not None,
        )
        return replace(mined, suspects=suspects)


def search_depth(split: Split, collection: Collection, options: MineOptions) -> int:
    """How many documents are ranked for each query: the window, and as many as are judged relevant or excluded for any
    query, since they may be ranked before it and take no rank."""
    judged = (sum(grade > 0 for grade in split.judgements.get(query, {}).values()) for query in split.queries)
    most = max(judged, default=0) + max((len(own) for own in collection.excluded.values()), default=0)
    if most > MOST_RESERVED:
        logger.warning(
            "a query has %s relevant or excluded documents: %s places are kept for them in each ranking, so that the "
            "windows of such queries may be shorter",
            f"{most:,}",
            f"{MOST_RESERVED:,}",
        )
    return options.window_end + min(most, MOST_RESERVED) + RESERVED


def check_finite(name: str, query_ids: Sequence[str], *scores: Sequence[np.ndarray]) -> None:
    """Raise ValueError if a score of a query is not finite: its negatives would be chosen by chance."""
    for parts in scores:
        for query_id, values in zip(query_ids, parts, strict=True):
            if not np.isfinite(values).all():
                raise ValueError(
                    f"{name}: a score of query {query_id!r} is not finite: check the model and its precision"
                )


def gathered(own: Sequence[T]) -> list[T]:
    """The items of all ranks, in rank order."""
    return [item for share in gather_objects(list(own)) for item in share]
