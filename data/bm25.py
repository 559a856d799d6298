"""The first stage: BM25 over the whole corpus, for all queries at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import bm25s
import numpy as np

from data.languages import Tokenizer, check_language
from data.words import TextAnalyzer, analyzer_for

Ranking = tuple[np.ndarray, np.ndarray]  # positions of documents (int32) and their scores (float32), best first


@dataclass(frozen=True)
class BM25:
    """Lucene's BM25 by `bm25s`: words of any language, with its stop words and Snowball stemmer.

    The class declares its capabilities as the options of a model do (models/capabilities.py).
    """

    name: ClassVar[str] = "bm25"
    outputs: ClassVar[frozenset[str]] = frozenset()
    default_evaluation: ClassVar[str] = "retrieval"
    trainable: ClassVar[bool] = False
    retrieves_by_itself: ClassVar[bool] = True

    k1: float = 0.9  # saturation of the term frequency
    b: float = 0.4  # normalisation by document length, 0 to 1
    language: str = "auto"  # of the stop words and the stemmer; auto: detected
    tokenizer: Tokenizer = "auto"

    def __post_init__(self) -> None:
        check_language("model", self.language)

    def retrieve(
        self, documents: Mapping[str, str], queries: Mapping[str, str], depth: int
    ) -> dict[str, dict[str, float]]:
        """The `depth` best documents of every query and their scores, best first. Documents without a word of the query
        are not returned."""
        names, texts = list(documents), list(documents.values())
        analyzer = analyzer_for(texts, self.language, self.tokenizer, "model")
        found = bm25_top(texts, list(queries.values()), depth=depth, k1=self.k1, b=self.b, analyzer=analyzer)
        return {
            query: {names[i]: score for i, score in zip(best.tolist(), scores.tolist(), strict=True)}
            for query, (best, scores) in zip(queries, found, strict=True)
        }


def bm25_top(
    documents: Sequence[str],
    queries: Sequence[str],
    *,
    depth: int,
    k1: float,
    b: float,
    analyzer: TextAnalyzer,
    left_out: Mapping[int, Iterable[int]] | None = None,
) -> list[Ranking]:
    """Find the `depth` best documents of every query, best first, fewer if fewer have a score above 0.

    Lucene's BM25 as bm25s computes it, on the terms of `analyzer`. Equal scores keep the corpus' order. `left_out` maps
    the position of a query to positions of documents that are not ranked for it. Raises ValueError if no document has a
    word.
    """
    terms = analyzer.documents(documents)
    if not any(terms):
        raise ValueError(f"BM25: none of the {len(documents)} documents has a word to index (all empty or stop words)")
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(terms, show_progress=False)
    found = []
    for position, words in enumerate(analyzer.queries(queries)):
        scores = index.get_scores(words) if words else np.zeros(len(documents), dtype=np.float32)
        scores[list((left_out or {}).get(position, ()))] = 0
        best = _top(scores, depth)
        found.append((best.astype(np.int32), scores[best]))
    return found


def _top(scores: np.ndarray, depth: int) -> np.ndarray:
    """The indices of at most `depth` scores above 0, highest first; ties are sorted by index, which bm25s does not
    do."""
    depth = min(depth, int((scores > 0).sum()))
    if depth == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(scores, -depth)[-depth]
    above = np.flatnonzero(scores > threshold)
    tied = np.flatnonzero(scores == threshold)[: depth - len(above)]
    return np.concatenate([above[np.argsort(-scores[above], kind="stable")], tied])
