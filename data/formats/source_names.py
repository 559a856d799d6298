"""The names of well-known layouts, by the columns of a row: what a report calls a file."""

from __future__ import annotations

from collections.abc import Iterable

from data.formats.layouts import field_of_column, plain_name

# The first whose columns a row has.
SOURCES = (
    ("Tevatron by id", {"positive_document_ids"}),
    ("Tevatron", {"query", "positive_passages"}),
    ("DPR", {"question", "positive_ctxs"}),
    ("FlagEmbedding", {"query", "pos"}),
    ("rank_llm", {"query", "candidates"}),
    ("ms-swift", {"messages", "positive_messages"}),
    ("ms-swift", {"messages", "negative_messages"}),
    ("ms-swift", {"messages", "rejected_messages"}),
    ("ms-swift", {"messages", "rejected_response"}),
    ("TRL preferences", {"chosen", "rejected"}),
    ("TRL unpaired preferences", {"prompt", "completion", "label"}),
    ("TRL prompt and completion", {"prompt", "completion"}),
    ("scored lists by id (PyLate, a TREC run)", {"query_id", "document_ids", "scores"}),
    ("MS MARCO triples by id", {"query_id", "positive_id", "negative_id"}),
    ("TREC judgements", {"query_id", "document_id", "label"}),
    ("BEIR judgements", {"query_id", "corpus_id"}),
    ("teacher lists", {"query", "passages", "scores"}),
)
BY_FIELDS = (
    ("sentence-transformers lists", {"query", "documents", "label"}),
    ("teacher lists", {"query", "documents", "score"}),
    ("sentence-transformers pairs with labels", {"query", "document", "label"}),
    ("sentence-transformers pairs with scores", {"query", "document", "score"}),
    ("sentence-transformers triplets or n-tuples", {"query", "positive", "negative"}),
    ("sentence-transformers pairs", {"query", "positive"}),
    ("sentence-transformers pairs", {"query", "document"}),
)


def source_name(columns: Iterable[str]) -> str:
    """The name of the layout whose rows have these columns; empty if it is none of the well-known ones.

    >>> source_name(["query_id", "query", "positive_passages", "negative_passages"])
    'Tevatron'
    """
    names = [str(name) for name in columns]
    plain = {plain_name(name) for name in names}
    fields = {str(field_of_column(name)) for name in names}
    found = [name for name, needed in SOURCES if needed <= plain]
    found += [name for name, needed in BY_FIELDS if needed <= fields]
    return found[0] if found else ""
