"""The documents that are a query itself: a query's own argument in ArguAna, its own question in Quora.

The published convention (BEIR, mteb) leaves them out of every ranking. They are never negatives either.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from data.collection import normalised
from data.option_names import in_node

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


def equal_documents(
    documents: Mapping[str, str], queries: Mapping[str, str], listed: Mapping[str, AbstractSet[str]]
) -> OwnDocuments:
    """The documents whose text is the query's, in data without ids, for each query that has some. Those that are
    `listed` with the query are none."""
    texts = {normalised(text) for text in queries.values()} - {""}
    by_text: dict[str, set[str]] = {}
    for document, text in documents.items():
        if (key := normalised(text)) in texts:
            by_text.setdefault(key, set()).add(document)
    found = {query: by_text.get(normalised(text), set()) - listed.get(query, set()) for query, text in queries.items()}
    return {query: own for query, own in found.items() if own}


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
