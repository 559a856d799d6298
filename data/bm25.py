"""The first stage: BM25 over the whole corpus, for all queries at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, NamedTuple

import numpy as np

from data.bm25_index import open_index, write_index
from data.cache import cached
from data.languages import Tokenizer, check_language
from data.pool import map_in_processes
from data.progress import Progress
from data.store.texts import ids_of, texts_of
from data.words import TextAnalyzer, analyzer_for

AT_ONCE = 200  # queries of one piece of work
BLOCK = 256  # documents whose highest score is looked at first

Ranking = tuple[np.ndarray, np.ndarray]  # positions of documents (int32) and their scores (float32), best first
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # a ranking, and the scores of documents that were asked for


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
        names, texts = ids_of(documents), texts_of(documents)
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
    folder: Path | None = None,
) -> list[Ranking]:
    """Find the `depth` best documents of every query, best first, fewer if fewer have a score above 0.

    Lucene's BM25 as bm25s computes it, on the terms of `analyzer`. Equal scores keep the corpus' order. `left_out` maps
    the position of a query to positions of documents that are not ranked for it. With a `folder`, where the index is
    kept, processes share the work. Raises ValueError if no document has a word.
    """
    with TemporaryDirectory() as temporary:

        def make(path: Path) -> None:
            write_index(path, documents, analyzer=analyzer, k1=k1, b=b, in_processes=folder is not None)

        index = cached(folder or Path(temporary) / "index", make)
        left = [sorted((left_out or {}).get(position, ())) for position in range(len(queries))]
        asked = [Asked(words, own) for words, own in zip(analyzer.queries(queries), left, strict=True)]
        found = search_index(index, asked, depth, in_processes=folder is not None)
    return [(best, scores) for best, scores, _ in found]


class Asked(NamedTuple):
    """The terms of a query, the rows of documents that are not ranked for it, and of those whose scores are wanted
    whatever their rank."""

    words: list[str]
    left_out: Sequence[int] = ()
    wanted: Sequence[int] = ()


def search_index(index: Path, queries: Sequence[Asked], depth: int, *, in_processes: bool = False) -> list[Found]:
    """Search an index of `write_index`: the ranking of each query as in `bm25_top`, and the scores (float32) of the
    wanted documents."""
    parts = [queries[start : start + AT_ONCE] for start in range(0, len(queries), AT_ONCE)]
    if in_processes:
        searched = map_in_processes(_search, parts, _Given, index, depth)
    else:
        searched = map(searcher(index, depth), parts)
    found: list[Found] = []
    with Progress("BM25, searching", len(queries), "queries") as progress:
        for results in searched:
            found += results
            progress.move_to(len(found))
    return found


def searcher(index: Path, depth: int) -> Callable[[Sequence[Asked]], list[Found]]:
    """Open an index of `write_index` once, for searches that come one after the other."""
    return partial(_search, _Given(index, depth))


class _Given:
    """What every search needs."""

    def __init__(self, folder: Path, depth: int) -> None:
        self.index, self.depth = open_index(folder), depth


def _search(given: _Given, queries: Sequence[Asked]) -> list[Found]:
    found = []
    for words, left_out, wanted in queries:
        scores = given.index.get_scores(words) if words else np.zeros(given.index.scores["num_docs"], dtype=np.float32)
        asked_for = scores[np.asarray(wanted, dtype=np.int64)]
        scores[np.asarray(left_out, dtype=np.int64)] = 0  # an empty tuple would index all
        best = _top(scores, given.depth)
        found.append((best.astype(np.int32), scores[best], asked_for))
    return found


def _top(scores: np.ndarray, depth: int) -> np.ndarray:
    """The indices of at most `depth` scores above 0, highest first; ties are sorted by index, which bm25s does not
    do."""
    bound = _lower_bound(scores, depth)
    found = np.flatnonzero(scores >= bound) if bound > 0 else np.flatnonzero(scores)  # no score is below 0
    depth = min(depth, len(found))
    if depth == 0:
        return np.empty(0, dtype=np.int64)
    values = scores[found]
    threshold = np.partition(values, -depth)[-depth]
    above = found[values > threshold]
    tied = found[values == threshold][: depth - len(above)]
    return np.concatenate([above[np.argsort(-scores[above], kind="stable")], tied])


def _lower_bound(scores: np.ndarray, depth: int) -> float:
    """A score that at least `depth` documents reach, so that few of a large corpus are left to sort: the `depth`-th
    best of the maxima of blocks; 0 if there are fewer blocks."""
    num_blocks = len(scores) // BLOCK
    if num_blocks < depth:
        return 0.0
    maxima = scores[: num_blocks * BLOCK].reshape(num_blocks, BLOCK).max(axis=1)
    return float(np.partition(maxima, -depth)[-depth])
