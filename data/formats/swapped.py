"""Warn of questions and answers that are likely swapped."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
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
REMEDY = "data.columns.query=COLUMN says which column asks"
ASKED, TOLD = ("query",), ("document", "positive", "chosen")


def warn_of_swapped(
    name: str, lists: Mapping[str, QueryGroup], documents: Mapping[str, str], columns: Mapping[str, str]
) -> None:
    """Warn if `columns` make the query of a column that is named as a document's, and a document of a query's; or if
    most relevant documents are short questions, and hardly a query is one."""
    sample = (entry for entry in islice(lists.values(), SAMPLE) if entry.has_positive)
    pairs = ((entry.query, documents[max(entry.labels, key=entry.labels.__getitem__)]) for entry in sample)
    if reason := why_swapped(pairs, columns):
        logger.warning("%s: question and answer may be swapped (%s); %s", name, reason, REMEDY)


def why_swapped(pairs: Iterable[tuple[str, str]], columns: Mapping[str, str]) -> str:
    """Why queries, each with a relevant document, seem to be swapped with these; empty if they do not."""
    asked = next((columns[field] for field in ASKED if field in columns), "")
    told = next((columns[field] for field in TOLD if field in columns), "")
    if field_of_column(asked) in TOLD and field_of_column(told) in ASKED:
        return f"data.columns takes {asked!r} as the query and {told!r} as the document"
    return _looks_swapped(list(pairs))


def _looks_swapped(sample: Sequence[tuple[str, str]]) -> str:
    """Why queries look like answers, and relevant documents like questions; empty if they do not."""
    if len(sample) < MIN_QUERIES:
        return ""
    queries, best = ([pair[part] for pair in sample] for part in (0, 1))
    shares = [sum(text.rstrip().endswith(QUESTION_MARKS) for text in texts) / len(sample) for texts in (queries, best)]
    longer = median(map(len, queries)) > LONGER * median(map(len, best))
    if shares[0] > FEW or shares[1] < MANY or not longer:
        return ""
    return f"{shares[1]:.0%} of the documents are questions, {shares[0]:.0%} of the queries, which are longer"
