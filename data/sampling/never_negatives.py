"""The texts that are never a query's negatives: what the data judge relevant or exclude, and the query itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from data.collection import Collection, normalised, text_key

MAX_CACHED_KEYS = 2**18


class SourceTexts:
    """The queries of one split and the documents of one collection, by the keys of their texts."""

    def __init__(self, collection: Collection, split_name: str = "train") -> None:
        split = collection.split(split_name)
        self.queries, self.documents = split.queries, collection.documents
        self.judged: Mapping[str, Mapping[str, float]] = split.labels or split.qrels
        self.excluded = collection.excluded
        self._keys: dict[str, int] = {}

    def key(self, document_id: str) -> int:
        """The key of a document's text."""
        found = self._keys.get(document_id)
        if found is None:
            if len(self._keys) >= MAX_CACHED_KEYS:
                self._keys.clear()
            found = self._keys[document_id] = text_key(self.documents[document_id])
        return found

    def judged_keys(self, query_id: str, *, relevant: bool) -> set[int]:
        """The keys of the documents judged relevant for the query, or of those judged not relevant."""
        judged = self.judged.get(query_id, {})
        return {self.key(document) for document, grade in judged.items() if (grade > 0) == relevant}

    def excluded_keys(self, query_id: str) -> set[int]:
        """The keys of the documents that are excluded for the query."""
        return {self.key(document) for document in self.excluded.get(query_id, ())}


class EqualQueries(NamedTuple):
    """What is judged or excluded for any of several training queries of equal text."""

    uncounted: list[tuple[str, str]]  # (source, query id) of those that are not yet in the sets below
    relevant: set[int]
    excluded: set[int]


class NeverNegatives:
    """The keys of the texts that are never a query's negatives, by source and query id.

    They are the texts of documents that are judged relevant for the query or excluded for it, whether or not they are
    in its list, and its own text. Queries of equal text, of any source, share them, except that a query's own judgement
    "not relevant" stands (in preferences, a document may be chosen in one row and rejected in another). The queries are
    those of one split, that of training by default.
    """

    def __init__(self, sources: Mapping[str, Collection], split: str = "train") -> None:
        self.sources = {name: SourceTexts(collection, split) for name, collection in sources.items()}
        self._equal: dict[str, EqualQueries] = {}  # by the normalised text of the queries, if there are several
        repeated = self._repeated_keys()
        for name, source in self.sources.items() if repeated else ():
            for query_id, text in source.queries.items():
                if text_key(text) in repeated:
                    new = EqualQueries([], set(), set())
                    self._equal.setdefault(normalised(text), new).uncounted.append((name, query_id))

    def _repeated_keys(self) -> set[int]:
        """The keys of query texts that occur several times: numbers, since there may be millions of queries."""
        texts = (text for source in self.sources.values() for text in source.queries.values())
        keys, counts = np.unique(np.fromiter(map(text_key, texts), dtype=np.int64), return_counts=True)
        return set(keys[counts > 1].tolist())

    def of(self, source: str, query_id: str) -> set[int]:
        """The keys of the texts that are no negatives of a training query."""
        texts = self.sources[source]
        query = texts.queries[query_id]
        keys = texts.judged_keys(query_id, relevant=True) | texts.excluded_keys(query_id) | {text_key(query)}
        equal = self._equal.get(normalised(query)) if self._equal else None
        if equal is not None:
            self._fill(equal)
            keys |= equal.excluded | (equal.relevant - texts.judged_keys(query_id, relevant=False))
        return keys

    def _fill(self, equal: EqualQueries) -> None:
        """Collect what is judged or excluded for queries of equal text, when one of them is first needed."""
        while equal.uncounted:
            name, query_id = equal.uncounted.pop()
            equal.relevant.update(self.sources[name].judged_keys(query_id, relevant=True))
            equal.excluded.update(self.sources[name].excluded_keys(query_id))
