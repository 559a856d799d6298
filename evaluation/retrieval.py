"""Retrieve from the whole corpus by BM25."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data.bm25 import bm25_candidates
from evaluation.metrics import Run


@dataclass(frozen=True)
class BM25:
    """Lucene's BM25 by `bm25s`: English stop words, Snowball stemmer."""

    k1: float = 0.9
    b: float = 0.4

    def retrieve(self, documents: Mapping[str, str], queries: Mapping[str, str], depth: int) -> Run:
        """The `depth` best documents of every query and their scores."""
        found = bm25_candidates(documents, queries, depth=depth, k1=self.k1, b=self.b)
        return {query: dict(ranked) for query, ranked in found.items()}
