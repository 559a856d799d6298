"""The documents that are a query itself: a query's own argument in ArguAna, its own question in Quora.

The published convention (BEIR, mteb) leaves them out of every ranking. They are never negatives either.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from data.collection import normalised, text_key
from data.hashing import among
from data.option_names import in_node
from data.store.texts import ids_of

logger = logging.getLogger(__name__)

OwnDocuments = Mapping[str, AbstractSet[str]]  # query id -> ids of documents

# Collections that number queries and documents from 1 share ids by accident: there the query must be at least so much
# of the document.
MIN_SHARE = 0.5


def same_id_documents(
    documents: Mapping[str, str], queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> OwnDocuments:
    """The document that has the query's id and holds its text, for each query that has one.

    A document that is judged relevant to the query is an answer (a question and its entry under one id), so it is none.
    BEIR leaves it out even then; in its collections no own document is judged relevant.
    """
    return {
        query: {query}
        for query, text in queries.items()
        if query in documents and qrels.get(query, {}).get(query, 0) <= 0 and _holds(documents[query], text, query)
    }


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """The keys (`text_key`, int64) of texts in their order."""
    return np.fromiter(map(text_key, texts), dtype=np.int64)


def equal_documents(
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    listed: Mapping[str, AbstractSet[str]],
    keys: np.ndarray | None = None,
) -> OwnDocuments:
    """The documents whose text is the query's, in data without ids, for each query that has some. Those that are
    `listed` with the query are none. `keys` are those of the documents, if they are known (`text_keys`)."""
    keys = text_keys(documents.values()) if keys is None else keys
    asked = text_keys(queries.values())
    rows = np.flatnonzero(among(keys, np.unique(asked[asked != text_key("")])))
    ids = ids_of(documents) if len(rows) else ()
    by_key: dict[int, set[str]] = {}
    for row, key in zip(rows.tolist(), keys[rows].tolist(), strict=True):
        by_key.setdefault(key, set()).add(ids[row])
    found: dict[str, AbstractSet[str]] = {}
    for query, is_there, key in zip(
        queries, among(asked, np.array(sorted(by_key), dtype=np.int64)), asked, strict=True
    ):
        if is_there and (own := by_key[int(key)] - listed.get(query, set())):
            found[query] = own
    return found


def announce(name: str, count: int) -> None:
    """Say how many queries it concerns, if any."""
    if count:
        logger.warning(
            "%s: %d %s itself a document, which is left out of its ranking (%s=true ranks it)",
            name,
            count,
            "queries are each" if count > 1 else "query is",
            in_node("data.rank_own_document"),
        )


def _holds(document: str, query: str, identifier: str) -> bool:
    text, part = normalised(document), normalised(query)
    if not part or f" {part} " not in f" {text} ":
        return False
    return len(part) >= MIN_SHARE * len(text) or not identifier.isdecimal()
