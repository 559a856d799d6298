"""The sources of candidate lists: BM25 over the corpus, or a file from another system."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from unicodedata import unidata_version

import numpy as np

from data.bm25 import Ranking, bm25_top
from data.cache import cached, read_arrays
from data.collection import Candidates, content_hash
from data.formats.trec import Run, read_run
from data.languages import Tokenizer, check_language
from data.option_names import in_node
from data.progress import write
from data.store.texts import StoredTexts, ids_of, rows_of, texts_digest, texts_of
from data.views import Derived
from data.words import TextAnalyzer, analyzer_for

logger = logging.getLogger(__name__)

Queries = Mapping[str, Mapping[str, str]]  # split -> query id -> text
LeftOut = Mapping[str, AbstractSet[str]]  # query id -> ids of documents that are no candidates of it
NOTHING: LeftOut = MappingProxyType({})
OTHERS = ("none", "bm25")  # where the candidates of queries come from that a run file does not rank
LARGE_CORPUS = 100_000  # documents from which a search takes so long that a line announces it
CODE = (
    "bm25.py",
    "bm25_index.py",
    "words.py",
    "languages.py",
    "function_words.py",
)  # what the results of BM25 depend on


class CandidateSource(Protocol):
    """The options of a source of candidates."""

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        """Find the candidates of all queries by split, best first, without the documents of `left_out`.

        A query that shares nothing with the corpus has an empty list. A split that the source knows nothing of is left
        out. Raises ValueError if the source knows nothing of some queries of a split.
        """


@dataclass(frozen=True)
class BM25Candidates:
    """The `depth` best documents by BM25 (bm25s "lucene"), cached; fewer if fewer share a word with the query."""

    depth: int = 100  # candidates per query, at most
    k1: float = 0.9  # saturation of the term frequency
    b: float = 0.4  # normalisation by document length, 0 to 1
    language: str = "auto"  # of the stop words and the stemmer; auto: detected
    tokenizer: Tokenizer = "auto"

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"data.candidates.depth={self.depth} must be at least 1")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"data.candidates.k1={self.k1} must be at least 0, data.candidates.b={self.b} in [0, 1]")
        check_language("data.candidates", self.language)

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        texts = {query_id: text for split in queries.values() for query_id, text in split.items()}
        excluded = {query_id: sorted(left_out[query_id]) for query_id in texts if left_out.get(query_id)}
        key = content_hash([texts_digest(documents)], texts, excluded, asdict(self), *_versions_and_code())
        analyzer = analyzer_for(texts_of(documents), self.language, self.tokenizer, in_node("data.candidates"))
        identifiers = ids_of(documents)

        is_large = isinstance(documents, StoredTexts)  # it may be searched for other queries
        index = index_folder(documents, cache_dir, self.k1, self.b, analyzer) if is_large else None

        def make(path: Path) -> None:
            if len(documents) >= LARGE_CORPUS:
                write(f"BM25: searching {len(documents)} documents for {len(texts)} queries, once")
            rows = {query_id: row for row, query_id in enumerate(texts)}
            found = bm25_top(
                texts_of(documents),
                list(texts.values()),
                depth=self.depth,
                k1=self.k1,
                b=self.b,
                analyzer=analyzer,
                left_out={rows[query]: rows_of(documents, own).tolist() for query, own in excluded.items()},
                folder=index,
            )
            _save(path, found)

        rankings = _load(cached(cache_dir / "candidates" / f"bm25-{key}.npz", make))
        without = sum(not len(best) for best, _ in rankings)
        if without:
            logger.warning("BM25: %d of %d queries share no word with a document: no candidates", without, len(texts))
        places = {query_id: row for row, query_id in enumerate(texts)}
        return {
            name: Ranked({query_id: rankings[places[query_id]] for query_id in split}, identifiers)
            for name, split in queries.items()
        }


def index_folder(documents: Mapping[str, str], cache_dir: Path, k1: float, b: float, analyzer: TextAnalyzer) -> Path:
    """The folder of the cache for the index of these documents (`data.bm25_index.write_index`)."""
    versions, code = _versions_and_code()
    # of the code all but the search
    own = [texts_digest(documents), k1, b, vars(analyzer) | {"_terms": None}, versions, code[1:]]
    return cache_dir / "bm25" / content_hash(own)


def _versions_and_code() -> tuple[list[str], list[str]]:
    """The versions of the libraries and the code that BM25 depends on."""
    versions = [version("bm25s"), version("PyStemmer"), unidata_version]
    return versions, [Path(__file__).with_name(name).read_text() for name in CODE]


class Ranked(Mapping[str, list[tuple[str, float]]]):
    """The candidates of queries, from the rows of documents and their scores. Ids are looked up when they are asked
    for: a list of pairs for each query would take twenty times the memory."""

    def __init__(self, rankings: Mapping[str, Ranking], identifiers: Sequence[str]) -> None:
        self._rankings, self._identifiers = rankings, identifiers

    def __len__(self) -> int:
        return len(self._rankings)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rankings)

    def __getitem__(self, query: str) -> list[tuple[str, float]]:
        best, scores = self._rankings[query]
        return [(self._identifiers[row], score) for row, score in zip(best.tolist(), scores.tolist(), strict=True)]


@dataclass(frozen=True)
class ListedCandidates:
    """The documents listed with each query (data=file).

    Held-out queries that list only one document, and data without lists, get candidates from BM25 with these options.
    """

    depth: int = 100  # candidates per query that BM25 finds, at most
    k1: float = 0.9  # saturation of the term frequency
    b: float = 0.4  # normalisation by document length, 0 to 1
    language: str = "auto"  # of the stop words and the stemmer; auto: detected
    tokenizer: Tokenizer = "auto"

    def __post_init__(self) -> None:
        _ = self.bm25  # checks the options

    @property
    def bm25(self) -> BM25Candidates:
        return BM25Candidates(**asdict(self))

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        return self.bm25.build(documents, queries, cache_dir, left_out)


@dataclass(frozen=True)
class NoCandidates:
    """No first stage: every query has an empty list."""

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        return {
            name: {query_id: [] for query_id in split} if isinstance(split, dict) else Derived(split, _nothing)
            for name, split in queries.items()
        }


@dataclass(frozen=True)
class RunFileCandidates:
    """Candidates and scores from another system, ranked by score; equal scores keep the order of the file.

    The file is a TREC run, or (*.jsonl) teacher scores `{"query_id", "document_ids", "scores"}`, plain or gzip. A split
    of which it ranks no query (mined negatives rank the training queries alone) is left out, or with others="bm25" has
    the candidates of BM25.
    """

    path: str
    others: str = "none"

    def __post_init__(self) -> None:
        if self.others not in OTHERS:
            raise ValueError(f"data.candidates.others={self.others} is not a choice: valid: {', '.join(OTHERS)}")

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The file, as in `data.source.SourceOptions.places`."""
        return {"path": {"": Path(self.path).expanduser()}}

    def check_place(self) -> None:
        """Raise FileNotFoundError if the file is not there."""
        if not Path(self.path).expanduser().is_file():
            raise FileNotFoundError(f"data.candidates.path={self.path}: no such file; give a TREC run or a .jsonl file")

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        self.check_place()
        path = Path(self.path).expanduser()
        run = _of_corpus(read_run(path), documents)
        found: dict[str, Candidates] = {}
        without = []
        for name, split in queries.items():
            missing = [query_id for query_id in split if query_id not in run]
            if not missing:
                found[name] = {query: _ranked(run[query], left_out.get(query, frozenset())) for query in split}
            elif len(missing) < len(split):
                raise ValueError(
                    f"{path}: no candidates of the corpus for query {missing[0]!r} ({len(missing)} of the {len(split)} "
                    f"{name} queries have none); add them to the file (a .jsonl may have empty lists: launch/mine.py "
                    "writes them with output=NAME.jsonl) or use data/candidates=bm25"
                )
            else:
                without.append(name)
        if not found:
            raise ValueError(f"{path}: no candidates for any query of the data; does it belong to another collection?")
        if without and self.others == "bm25":
            found |= BM25Candidates().build(documents, {name: queries[name] for name in without}, cache_dir, left_out)
        elif without:
            logger.warning("%s: no candidates for any %s query: left out", path, " or ".join(without))
        return {name: found[name] for name in queries if name in found}


def _nothing(query_id: str, text: str) -> list[tuple[str, float]]:
    return []


def _of_corpus(run: Run, documents: Mapping[str, str]) -> Run:
    """The documents of the corpus. A query that lists others only is left out, one with an empty list is kept."""
    known = {query: {doc: score for doc, score in scores.items() if doc in documents} for query, scores in run.items()}
    return {query: scores for query, scores in known.items() if scores or not run[query]}


def _ranked(scores: Mapping[str, float], left_out: AbstractSet[str]) -> list[tuple[str, float]]:
    return sorted(((doc, score) for doc, score in scores.items() if doc not in left_out), key=lambda pair: -pair[1])


def _save(path: Path, rankings: Sequence[Ranking]) -> None:
    """Write rankings of different lengths, one after the other."""
    none = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
    best, scores = (np.concatenate(parts) for parts in zip(none, *rankings, strict=True))
    np.savez(path, best=best, scores=scores, sizes=np.array([len(best) for best, _ in rankings], dtype=np.int64))


def _load(path: Path) -> list[Ranking]:
    arrays = read_arrays(path)
    ends = np.cumsum(arrays["sizes"])[:-1]
    if not len(arrays["sizes"]):
        return []
    return list(zip(np.split(arrays["best"], ends), np.split(arrays["scores"], ends), strict=True))


def bm25_options_of(source: object) -> BM25Candidates | None:
    """The BM25 options of a source of candidates; None if it does not use BM25."""
    if isinstance(source, ListedCandidates):
        return source.bm25
    return source if isinstance(source, BM25Candidates) else None
