"""The first stage: BM25 over the whole corpus, for all queries at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import bm25s
import numpy as np
import Stemmer


@dataclass(frozen=True)
class BM25:
    """Lucene's BM25 by `bm25s`: English stop words, Snowball stemmer.

    The class declares its capabilities as the options of a model do (models/capabilities.py).
    """

    name: ClassVar[str] = "bm25"
    outputs: ClassVar[frozenset[str]] = frozenset()
    default_evaluation: ClassVar[str] = "retrieval"
    trainable: ClassVar[bool] = False
    retrieves_by_itself: ClassVar[bool] = True

    k1: float = 0.9  # saturation of the term frequency
    b: float = 0.4  # normalisation by document length, 0 to 1

    def retrieve(
        self, documents: Mapping[str, str], queries: Mapping[str, str], depth: int
    ) -> dict[str, dict[str, float]]:
        """The `depth` best documents of every query and their scores, best first."""
        names = list(documents)
        best, scores = bm25_top(list(documents.values()), list(queries.values()), depth=depth, k1=self.k1, b=self.b)
        return {
            query: {names[i]: score for i, score in zip(best[row].tolist(), scores[row].tolist(), strict=True)}
            for row, query in enumerate(queries)
        }


def bm25_top(
    documents: Sequence[str], queries: Sequence[str], *, depth: int, k1: float, b: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best documents: positions (int32) and scores (float32), [queries, min(depth, documents)], best first.

    Lucene's BM25 as bm25s computes it, English stop words, Snowball stemmer. Equal scores keep the corpus' order. A
    query without a word of the corpus gets the first documents with score 0, so that every query has candidates.
    Raises ValueError if no document has a word.
    """
    tokens_of_documents = _tokenize(documents)
    if not any(tokens_of_documents):
        raise ValueError(f"BM25: none of the {len(documents)} documents has a word to index (all empty or stop words)")
    depth = min(depth, len(documents))
    best = np.zeros((len(queries), depth), dtype=np.int32)
    best_scores = np.zeros((len(queries), depth), dtype=np.float32)
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens_of_documents, show_progress=False)
    for row, tokens in enumerate(_tokenize(queries)):
        scores = index.get_scores(tokens) if tokens else np.zeros(len(documents), dtype=np.float32)
        best[row] = _top(scores, depth)
        best_scores[row] = scores[best[row]]
    return best, best_scores


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)


def _top(scores: np.ndarray, depth: int) -> np.ndarray:
    """The indices of the `depth` highest scores, highest first; ties are sorted by index, which bm25s does not do."""
    threshold = np.partition(scores, -depth)[-depth]
    above = np.flatnonzero(scores > threshold)
    tied = np.flatnonzero(scores == threshold)[: depth - len(above)]
    return np.concatenate([above[np.argsort(-scores[above], kind="stable")], tied])
