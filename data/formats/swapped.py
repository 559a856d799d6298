"""Warn of questions and answers that are likely swapped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from statistics import median

from data.formats.grouping import QueryGroup
from data.formats.layouts import field_of_column

logger = logging.getLogger(__name__)

SAMPLE = 1000  # queries that are looked at
MIN_QUERIES = 10  # fewer say nothing
MANY, FEW = 0.5, 0.05  # shares of texts that end in a question mark
LONGER = 1.5  # how much longer queries are than documents, in characters
QUESTION_MARKS = ("?", "\uff1f", "\u061f")  # also those of Chinese and Arabic
ASKED, TOLD = ("query",), ("document", "positive", "chosen")


def warn_of_swapped(
    name: str, lists: Mapping[str, QueryGroup], documents: Mapping[str, str], columns: Mapping[str, str]
) -> None:
    """Warn if `columns` make the query of a column that is named as a document's, and a document of a query's; or if
    most relevant documents are short questions, and hardly a query is one."""
    asked = next((columns[field] for field in ASKED if field in columns), "")
    told = next((columns[field] for field in TOLD if field in columns), "")
    named = field_of_column(asked) in TOLD and field_of_column(told) in ASKED
    if named:
        reason = f"data.columns takes {asked!r} as the query and {told!r} as the document"
    elif not (reason := _looks_swapped(lists, documents)):
        return
    logger.warning(
        "%s: question and answer may be swapped (%s); data.columns.query=COLUMN says which column asks", name, reason
    )


def _looks_swapped(lists: Mapping[str, QueryGroup], documents: Mapping[str, str]) -> str:
    """Why queries look like answers, and relevant documents like questions; empty if they do not."""
    sample = [entry for entry in islice(lists.values(), SAMPLE) if entry.has_positive]
    if len(sample) < MIN_QUERIES:
        return ""
    queries = [entry.query for entry in sample]
    best = [documents[max(entry.labels, key=entry.labels.__getitem__)] for entry in sample]
    shares = [sum(text.rstrip().endswith(QUESTION_MARKS) for text in texts) / len(sample) for texts in (queries, best)]
    longer = median(map(len, queries)) > LONGER * median(map(len, best))
    if shares[0] > FEW or shares[1] < MANY or not longer:
        return ""
    return f"{shares[1]:.0%} of the documents are questions, {shares[0]:.0%} of the queries, which are longer"
