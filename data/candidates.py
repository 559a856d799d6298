"""The sources of candidate lists: BM25 over the corpus, or a file from another system."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from data.bm25 import bm25_top
from data.cache import cached, read_arrays
from data.collection import Candidates, content_hash
from data.formats.trec import read_run

logger = logging.getLogger(__name__)

Queries = Mapping[str, Mapping[str, str]]  # split -> query id -> text


class CandidateSource(Protocol):
    """The options of a source of candidates."""

    def build(self, documents: Mapping[str, str], queries: Queries, cache_dir: Path) -> dict[str, Candidates]:
        """Find the candidates of all queries by split, best first.

        A split without any candidates is left out. Raises ValueError if only some queries of a split have candidates.
        """


@dataclass(frozen=True)
class BM25Candidates:
    """The `depth` best documents by BM25 (bm25s "lucene", English stop words, Snowball stemmer), cached."""

    depth: int = 100  # candidates per query
    k1: float = 0.9  # saturation of the term frequency
    b: float = 0.4  # normalisation by document length, 0 to 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"data.candidates.depth={self.depth} must be at least 1")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"data.candidates.k1={self.k1} must be at least 0, data.candidates.b={self.b} in [0, 1]")

    def build(self, documents: Mapping[str, str], queries: Queries, cache_dir: Path) -> dict[str, Candidates]:
        texts = [text for split in queries.values() for text in split.values()]
        versions = [version("bm25s"), version("PyStemmer")]
        code = Path(__file__).with_name("bm25.py").read_text()
        key = content_hash(documents, texts, [self.depth, self.k1, self.b, *versions, code])

        def make(path: Path) -> None:
            best, scores = bm25_top(list(documents.values()), texts, depth=self.depth, k1=self.k1, b=self.b)
            np.savez(path, best=best, scores=scores)

        identifiers = list(documents)
        arrays = read_arrays(cached(cache_dir / "candidates" / f"bm25-{key}.npz", make))
        rows = zip(arrays["best"].tolist(), arrays["scores"].tolist(), strict=True)
        found = ([(identifiers[i], score) for i, score in zip(*row, strict=True)] for row in rows)
        return {name: {query_id: next(found) for query_id in split} for name, split in queries.items()}


@dataclass(frozen=True)
class ListedCandidates:
    """The documents listed with each query (data=file).

    Held-out queries that list only one document, and data without lists, get candidates from BM25 with these options.
    """

    depth: int = 100  # candidates per query that BM25 finds
    k1: float = 0.9  # saturation of the term frequency
    b: float = 0.4  # normalisation by document length, 0 to 1

    def __post_init__(self) -> None:
        _ = self.bm25  # checks the options

    @property
    def bm25(self) -> BM25Candidates:
        return BM25Candidates(depth=self.depth, k1=self.k1, b=self.b)

    def build(self, documents: Mapping[str, str], queries: Queries, cache_dir: Path) -> dict[str, Candidates]:
        return self.bm25.build(documents, queries, cache_dir)


@dataclass(frozen=True)
class RunFileCandidates:
    """Candidates and scores from another system, ranked by score; equal scores keep the order of the file.

    The file is a TREC run, or (*.jsonl) teacher scores `{"query_id", "document_ids", "scores"}`, plain or gzip.
    """

    path: str

    def build(self, documents: Mapping[str, str], queries: Queries, cache_dir: Path) -> dict[str, Candidates]:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"data.candidates.path={self.path}: no such file; give a TREC run or a .jsonl file")
        run = {
            query_id: sorted(((doc, score) for doc, score in scores.items() if doc in documents), key=lambda x: -x[1])
            for query_id, scores in read_run(path).items()
        }
        found, left_out = {}, []
        for name, split in queries.items():
            missing = [query_id for query_id in split if not run.get(query_id)]
            if not missing:
                found[name] = {query_id: run[query_id] for query_id in split}
            elif len(missing) < len(split):
                raise ValueError(
                    f"{path}: no candidates of the corpus for query {missing[0]!r} ({len(missing)} of the {len(split)} "
                    f"{name} queries have none); add them to the file or use data/candidates=bm25"
                )
            else:
                left_out.append(name)
        if not found:
            raise ValueError(f"{path}: no candidates for any query of the data; does it belong to another collection?")
        if left_out:
            logger.warning("%s: no candidates for any %s query: left out", path, " or ".join(left_out))
        return found


def bm25_options_of(source: object) -> BM25Candidates | None:
    """The BM25 options of a source of candidates; None if it does not use BM25."""
    if isinstance(source, ListedCandidates):
        return source.bm25
    return source if isinstance(source, BM25Candidates) else None
