"""The round trip: whether a retriever finds what a text was written for among the first documents of the corpus."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.collection import Collection, Split
from data.progress import show_progress
from data.sampling.never_rows import CorpusTexts
from inference.mine_options import MineOptions
from recipes.negatives.build_searchers import Parts, build_searcher
from recipes.negatives.corpus import corpus_of
from recipes.questions.config import MakeQueriesConfig

GROUP = 8192  # texts that are searched for at once


def ranks_of(
    settings: MakeQueriesConfig, collection: Collection, texts: Sequence[str], wanted: Sequence[Sequence[str]]
) -> list[int]:
    """The rank, from 1 on, of the first of the `wanted` documents (ids) in the ranking of each text; 0: none is among
    the first `round_trip`. A document of equal text counts as the document itself. All ranks call it together."""
    depth = settings.round_trip
    assert depth is not None
    queries = {f"written {number}": text for number, text in enumerate(texts)}
    split = Split(queries, {}, {name: [] for name in queries})
    corpus = corpus_of(collection, "", None, settings.data.cache)
    keys, depth = CorpusTexts(corpus.documents), min(depth, len(corpus.documents))
    searcher = build_searcher(_parts(settings, collection, split, keys), settings.retriever, None)
    ranks: list[int] = []
    starts = range(0, len(texts), GROUP)
    for start in show_progress(starts, "round trip", len(starts), "groups"):
        group = wanted[start : start + GROUP]
        found = searcher.search(slice(start, start + len(group)), [np.empty(0, dtype=np.int64)] * len(group), depth)
        for rows, names in zip(found.rows, group, strict=True):
            sources = {keys.key(row) for name in names if (row := corpus.row(name)) is not None}
            places = (
                place for place, row in enumerate(rows.tolist(), start=1) if row >= 0 and keys.key(row) in sources
            )
            ranks.append(next(places, 0))
    del searcher
    gc.collect()
    return ranks


def _parts(settings: MakeQueriesConfig, collection: Collection, split: Split, keys: CorpusTexts) -> Any:
    return Parts(
        collection=collection,
        split=split,
        documents=collection.documents,
        texts=keys,
        cache=settings.data.cache,
        precision=settings.precision,
        seed=settings.seed,
        options=MineOptions(token_budget=settings.token_budget),
    )
