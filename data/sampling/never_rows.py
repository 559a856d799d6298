"""Why a document of a corpus is never a negative of a query, by its row: judged, excluded, equal or nearly equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import xxhash

from data.inspection.near_duplicates import MAX_CHARACTERS, WORD, shingles
from data.inspection.unspaced import WORD as LETTER_OR_WORD
from data.inspection.unspaced import is_unspaced
from data.sampling.never_negatives import NeverNegatives, text_key
from data.store.texts import texts_of

CACHED_KEYS = 2**18
CACHED_MARKS = 2**13
NEVER = {  # reason -> what is said of it
    "relevant": "judged relevant for the query",
    "excluded": "excluded for the query",
    "equal": "equal to the query, or to a text that is relevant or excluded",
    "near": "nearly equal to the query, or to a text that is relevant or excluded",
}


class Marks(NamedTuple):
    """The hashes (uint64, sorted) of the words of a text and of its runs of words (none of a short text). In a text
    without spaces pairs of neighbouring letters are its words."""

    words: np.ndarray
    runs: np.ndarray

    @classmethod
    def of(cls, text: str) -> Marks:
        start = text[:MAX_CHARACTERS]
        return cls(_hashes(_words(start)), _hashes(shingles(start)))


def _words(text: str) -> set[str]:
    if not is_unspaced(text):
        return set(WORD.findall(text.casefold()))
    letters = LETTER_OR_WORD.findall(text.casefold())
    return {"".join(pair) for pair in pairwise(letters)} or set(letters)


def overlap(first: np.ndarray, second: np.ndarray, least: float = 0.0) -> float:
    """The Jaccard similarity of two sets of different hashes, 0 if one of them is empty or it cannot reach `least`."""
    small, large = (first, second) if len(first) <= len(second) else (second, first)
    if not len(small) or len(small) < least * len(large):
        return 0.0
    places = large.searchsorted(small)
    places[places == len(large)] = 0  # of a hash above all: it is not the first either
    common = int(np.count_nonzero(large[places] == small))
    return common / (len(small) + len(large) - common)


def _hashes(parts: set[str]) -> np.ndarray:
    values = (xxhash.xxh3_64_intdigest(part.encode(errors="surrogatepass")) for part in parts)
    return np.sort(np.fromiter(values, dtype=np.uint64, count=len(parts)))


class CorpusTexts:
    """The texts of a corpus by row: the keys that equal texts share, and their words."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self.texts: Sequence[str] = texts_of(documents)
        self.key = lru_cache(CACHED_KEYS)(self._key)
        self.marks = lru_cache(CACHED_MARKS)(self._marks)

    def __len__(self) -> int:
        return len(self.texts)

    def _key(self, row: int) -> int:
        return text_key(self.texts[row])

    def _marks(self, row: int) -> Marks:
        return Marks.of(self.texts[row])


@dataclass(frozen=True)
class NeverRows:
    """The documents of a corpus that are never negatives of one query.

    `relevant` and `excluded` are their rows, `keys` the keys of texts that are none (`NeverNegatives.of`), and `marks`
    those of the texts that no negative nearly equals: the query, what is relevant and what is excluded. Texts are
    nearly equal if the runs of words of both have a Jaccard similarity of at least `near` (None: it is not compared).
    It is that of `data.inspection.near_duplicates`, without the estimate by MinHash that finds pairs among all
    documents: here the pairs are known and few.
    """

    texts: CorpusTexts
    relevant: frozenset[int]
    excluded: frozenset[int]
    keys: frozenset[int]
    marks: tuple[Marks, ...]
    near: float | None

    def reason(self, row: int) -> str:
        """The reason, a key of NEVER, or "" if the document may be a negative."""
        if row in self.relevant:
            return "relevant"
        if row in self.excluded:
            return "excluded"
        if self.texts.key(row) in self.keys:
            return "equal"
        if self.near is not None and self.marks:
            own, near = self.texts.marks(row).runs, self.near
            if any(overlap(own, marks.runs, near) >= near for marks in self.marks):
                return "near"
        return ""


class NeverRowsOfQueries:
    """Makes the `NeverRows` of the queries of one collection over a corpus.

    `rows` are the rows in the corpus of the collection's documents that are judged or excluded, by id.
    """

    def __init__(self, never: NeverNegatives, source: str, texts: CorpusTexts, near: float | None) -> None:
        self.never, self.source, self.texts, self.near = never, source, texts, near
        self.documents = never.sources[source].documents
        self.queries = never.sources[source].queries

    def of(self, query_id: str, relevant: Mapping[str, int], excluded: Mapping[str, int | None]) -> NeverRows:
        """The documents that are no negatives of a query. `relevant` and `excluded`: the rows of those documents by id,
        None for one that the corpus does not have."""
        texts = [self.queries[query_id], *(self.documents[name] for name in (*relevant, *excluded))]
        marks = [Marks.of(text) for text in texts] if self.near is not None else []
        return NeverRows(
            self.texts,
            frozenset(relevant.values()),
            frozenset(row for row in excluded.values() if row is not None),
            frozenset(self.never.of(self.source, query_id)),
            tuple(mark for mark in marks if len(mark.runs)),
            self.near,
        )
