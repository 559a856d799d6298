"""Search a corpus for many queries: by BM25, by stored vectors, or by both with fused scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.bm25 import BM25, Asked, search_index
from data.bm25_index import write_index
from data.cache import cached
from data.candidates import LARGE_CORPUS, index_folder
from data.sampling.never_rows import CorpusTexts, overlap
from data.store.texts import texts_of
from data.words import analyzer_for
from engines.distributed.collectives import gather_objects
from engines.distributed.process_group import rank, world_size
from inference.pieces.ragged import RaggedVectors
from inference.vector_search import search_slices, search_stored
from inference.vectors import StoredVectors
from losses.math.similarity import similarity_named

QUERY_BLOCK = 256  # queries of one matrix product
BM25_BLOCK = 200  # queries of one piece of work of a rank


Stored = StoredVectors | RaggedVectors


@dataclass(frozen=True)
class Found:
    """The rankings of some queries, best first: rows (int64) and scores (float32) [queries, depth], -1 and -inf where
    a ranking ends. `wanted`: for each query the scores (float32) of the documents that were asked for."""

    rows: np.ndarray
    scores: np.ndarray
    wanted: list[np.ndarray]


class Searcher(ABC):
    """Searches a corpus. All ranks call it together and get the same."""

    name: str  # in words, for the audit
    key: Mapping[str, str]  # what its results depend on
    alike_from: float  # the likeness from which a document is suspected to say the same

    @abstractmethod
    def search(self, queries: slice, wanted: Sequence[np.ndarray], depth: int) -> Found:
        """The `depth` best documents of the queries in these rows, and the scores of those `wanted` for each."""

    @abstractmethod
    def likeness(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How like each document of `rows` [n] is to the most similar of `others`: float32 [n], at most 1."""

    def rank_bytes(self, num_queries: int, depth: int) -> int:
        """The memory of a rank for the search of so many queries."""
        return num_queries * depth * 24


class VectorSearcher(Searcher):
    """Searches stored vectors, block by block with a running top k."""

    alike_from = 0.9

    def __init__(self, name: str, queries: Stored, documents: Stored, device: torch.device) -> None:
        self.name, self.queries, self.documents, self.device = name, queries, documents, device
        self.similarity = similarity_named(documents.similarity)
        roles = {"queries": queries, "documents": documents}
        self.key = {f"{role} {part}": value for role, stored in roles.items() for part, value in stored.key.items()}

    def search(self, queries: slice, wanted: Sequence[np.ndarray], depth: int) -> Found:
        own = self.queries.block(queries.start, queries.stop).to(self.device)
        scores, rows = search_stored(own, self.documents, depth, query_block=QUERY_BLOCK)
        asked = [self._pairs(query, rows_of_query) for query, rows_of_query in zip(own, wanted, strict=True)]
        return Found(rows.cpu().numpy(), scores.cpu().numpy(), asked)

    def _pairs(self, query: Any, rows: np.ndarray) -> np.ndarray:
        return self.similarity.pairs(query, self.documents.rows(rows).to(self.device)).cpu().numpy()

    def likeness(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The similarity's `likeness` of two documents."""
        own, compared = (self.documents.rows(part).to(self.device) for part in (rows, others))
        return self.similarity.likeness(own, compared).max(dim=1).values.cpu().numpy()

    def rank_bytes(self, num_queries: int, depth: int) -> int:
        parts = search_slices(self.documents)
        block = max(self.documents.num_values(part) for part in parts)
        own = self.queries.num_values(slice(0, len(self.queries))) * num_queries // len(self.queries)
        scores = QUERY_BLOCK * max(part.stop - part.start for part in parts)
        return 4 * (2 * block + own) + 8 * scores + super().rank_bytes(num_queries, depth)


class BM25Searcher(Searcher):
    """Searches the index of BM25. Documents without a word of the query are not found; their score is 0."""

    alike_from = 0.5

    def __init__(
        self, options: BM25, documents: Mapping[str, str], queries: Mapping[str, str], cache: Path, texts: CorpusTexts
    ) -> None:
        self.name, self.corpus, self.query_texts = options.name, texts, texts_of(queries)
        analyzer = analyzer_for(texts_of(documents), options.language, options.tokenizer, "model")
        self.analyzer, self.is_large = analyzer, len(documents) >= LARGE_CORPUS
        folder = index_folder(documents, cache, options.k1, options.b, analyzer)

        def make(path: Path) -> None:
            parts = texts_of(documents)
            write_index(path, parts, analyzer=analyzer, k1=options.k1, b=options.b, in_processes=self.is_large)

        self.index = cached(folder, make)
        self.key = {"bm25": folder.name}

    def search(self, queries: slice, wanted: Sequence[np.ndarray], depth: int) -> Found:
        words = self.analyzer.queries(self.query_texts[queries])
        asked = [Asked(terms, (), rows.tolist()) for terms, rows in zip(words, wanted, strict=True)]
        places = [slice(start, start + BM25_BLOCK) for start in range(0, len(asked), BM25_BLOCK)]
        own = [query for place in places[rank() :: world_size()] for query in asked[place]]
        in_processes = self.is_large and world_size() == 1  # else the ranks share the cores
        found = search_index(self.index, own, depth, in_processes=in_processes)
        shares = [iter(share) for share in gather_objects(found)]
        results = [next(shares[number % len(shares)]) for number, place in enumerate(places) for _ in asked[place]]
        rows = np.full((len(asked), depth), -1, dtype=np.int64)
        scores = np.full((len(asked), depth), -np.inf, dtype=np.float32)
        for number, (best, values, _) in enumerate(results):
            rows[number, : len(best)], scores[number, : len(best)] = best, values
        return Found(rows, scores, [asked_for for _, _, asked_for in results])

    def likeness(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The share of common words of two documents."""
        marks = [self.corpus.marks(other).words for other in others.tolist()]
        found = [max(overlap(self.corpus.marks(row).words, words) for words in marks) for row in rows.tolist()]
        return np.array(found, dtype=np.float32)


@dataclass(frozen=True)
class HybridSearcher(Searcher):
    """Searches by two searchers and fuses their scores: weight * z(first) + (1 - weight) * z(second), as
    `evaluation.fusion.fuse` does. A document that one of them has not found gets its lowest z."""

    first: Searcher
    second: Searcher
    weight: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.first.name} and {self.second.name}, fused by {self.weight:g} to {1 - self.weight:g}"

    @property
    def key(self) -> Mapping[str, str]:  # type: ignore[override]
        parts = {"first": self.first, "second": self.second}
        keys = {f"{name} {part}": value for name, each in parts.items() for part, value in each.key.items()}
        return {**keys, "weight": repr(self.weight)}

    def search(self, queries: slice, wanted: Sequence[np.ndarray], depth: int) -> Found:
        parts = [each.search(queries, wanted, depth) for each in (self.first, self.second)]
        weights = (self.weight, 1 - self.weight)
        rows = np.full((len(wanted), depth), -1, dtype=np.int64)
        scores = np.full((len(wanted), depth), -np.inf, dtype=np.float32)
        asked: list[np.ndarray] = []
        for number in range(len(wanted)):
            rankings = [Standardised.of(part.rows[number], part.scores[number]) for part in parts]
            union = np.unique(np.concatenate([ranking.rows for ranking in rankings]))
            fused = weighted(weights, [ranking.scores_of(union) for ranking in rankings])
            best = np.lexsort((union, -fused))[:depth]
            rows[number, : len(best)], scores[number, : len(best)] = union[best], fused[best]
            own = [ranking.of_scores(part.wanted[number]) for ranking, part in zip(rankings, parts, strict=True)]
            asked.append(weighted(weights, own).astype(np.float32))
        return Found(rows, scores, asked)

    @property
    def alike_from(self) -> float:  # type: ignore[override]
        return self.first.alike_from

    def likeness(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The likeness of the first one."""
        return self.first.likeness(rows, others)

    def rank_bytes(self, num_queries: int, depth: int) -> int:
        return sum(each.rank_bytes(num_queries, depth) for each in (self.first, self.second))


def weighted(weights: Sequence[float], values: Sequence[np.ndarray]) -> np.ndarray:
    """The weighted sum of arrays of equal length."""
    return np.sum([weight * each for weight, each in zip(weights, values, strict=True)], axis=0)


@dataclass(frozen=True)
class Standardised:
    """A ranking with z-scores: `rows` in rising order and their z (float64), the mean and deviation, the lowest z."""

    rows: np.ndarray
    z: np.ndarray
    mean: float
    deviation: float

    @classmethod
    def of(cls, rows: np.ndarray, scores: np.ndarray) -> Standardised:
        rows, scores = rows[rows >= 0], scores[rows >= 0].astype(np.float64)
        if not len(rows):
            return cls(rows, scores, 0.0, 0.0)
        mean, deviation = float(scores.mean()), float(scores.std())
        if deviation <= 1e-12 * np.abs(scores).max():
            deviation = 0.0
        order = np.argsort(rows)
        z = (scores - mean) / deviation if deviation else np.zeros_like(scores)
        return cls(rows[order], z[order], mean, deviation)

    @property
    def lowest(self) -> float:
        return float(self.z.min()) if len(self.z) else 0.0

    def scores_of(self, rows: np.ndarray) -> np.ndarray:
        """The z of rows, the lowest one for a row that the ranking lacks."""
        if not len(self.rows):
            return np.zeros(len(rows))
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.z[places], self.lowest)

    def of_scores(self, scores: np.ndarray) -> np.ndarray:
        """The z of scores of any documents: none is below the lowest, like that of a document that is not found."""
        if not self.deviation:
            return np.zeros(len(scores))
        return np.maximum((scores.astype(np.float64) - self.mean) / self.deviation, self.lowest)
