"""Group the rows of a file by query."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

from data.collection import text_key
from data.formats.columns import ListRecord
from data.formats.skipped import SkippedRows
from data.hashing import stable_hash, text_hash
from data.views import Derived

logger = logging.getLogger(__name__)

START = 40  # characters of a text in a message


@dataclass
class QueryGroup:
    """One query with the labels and teacher scores (NaN: none) of its documents. `labelled`: whether the rows have
    labels; `has_label_column`: whether a column holds them."""

    query: str
    prompt: str | None
    kind: str
    labels: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    labelled: bool = True
    has_label_column: bool = False
    weights: list[float] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """The mean weight of its rows."""
        return sum(self.weights) / len(self.weights)

    @property
    def has_positive(self) -> bool:
        return self.labelled and max(self.labels.values()) > 0

    @property
    def is_scored(self) -> bool:
        """Whether a teacher has scored all of its documents, beside their labels."""
        return self.labelled and not any(map(math.isnan, self.scores.values()))

    @property
    def compares(self) -> bool:
        """Whether some of its documents are better than others."""
        return len(set((self.labels if self.labelled else self.scores).values())) > 1

    def judge(self, document: str, label: float) -> bool:
        """Add a document's label. Returns whether it had another one, as a negative that is also a positive: the
        highest counts."""
        other = self.labels.get(document, label)
        self.labels[document] = max(label, other)
        return other != label

    def add_score(self, document: str, score: float) -> bool:
        """Add a document's teacher score. Returns whether it had another one before, which is replaced."""
        other = self.scores.setdefault(document, score)
        if math.isnan(score) or score == other:
            return False
        self.scores[document] = score
        return not math.isnan(other)

    @property
    def can_be_evaluated(self) -> bool:
        return self.has_positive or (not self.labelled and self.compares)

    def grades(self, scale: int) -> dict[str, int]:
        """Integer grades for evaluation: labels times `scale`; without labels, 1 for the teacher's best document."""
        if self.labelled:
            return {document: round(scale * label) for document, label in self.labels.items()}
        best = max(self.scores, key=lambda document: self.scores[document])
        return {document: int(document == best) for document in self.labels}


@dataclass
class Noted:
    """What the lines after the grouping count."""

    empty: int = 0
    false_negatives: int = 0
    other_scores: int = 0

    def announce(self) -> None:
        for number, what in (
            (self.empty, "documents without a text are left out of their lists"),
            (
                self.false_negatives,
                "negatives are the query or a positive of it (equal up to case and spacing): left out",
            ),
            (
                self.other_scores,
                "teacher scores differ from an earlier row's of the same query and document: the last hold",
            ),
        ):
            if number:
                logger.warning("%d %s", number, what)


@dataclass
class Grouping:
    """Groups rows of the same query and prompt into one list; every preference stays a list of its own. `lists` are
    those so far, in the order in which queries first appear.

    Labels of a column that are below `relevant_from` become 0.
    """

    relevant_from: float | None = None
    noted: Noted = field(default_factory=Noted)
    lists: dict[str, QueryGroup] = field(default_factory=dict)
    _places: dict[tuple[str, str], str] = field(default_factory=dict, init=False)
    _rows_of_text: dict[str, int] = field(default_factory=dict, init=False)

    def add(self, record: ListRecord, ids: Sequence[str]) -> str:
        """Add a row, with the ids of its documents, and return the id of its list. Raises ValueError, and adds nothing,
        if a document has two labels in one list."""
        query_id = query_id_of(record)
        if record.kind == "preferences":
            number = self._rows_of_text[query_id] = self._rows_of_text.get(query_id, 0) + 1
            query_id = f"{query_id}-{number}"
        entry = self.lists.get(query_id) or QueryGroup(record.query, record.text_before_query, record.kind)
        labels = record.labels or [0.0] * len(ids)
        if record.labelled and self.relevant_from is not None:
            labels = [0.0 if label < self.relevant_from else label for label in labels]
        _check_labels(record, entry.labels, ids, labels, lambda document: self._places.get((query_id, document)))
        self.lists[query_id] = entry
        self.noted.empty += record.num_empty
        entry.labelled = entry.labelled and record.labels is not None
        entry.has_label_column = entry.has_label_column or record.labelled
        entry.weights.append(record.weight)
        scores = record.scores or [math.nan] * len(ids)
        for document, label, score in zip(ids, labels, scores, strict=True):
            self._places.setdefault((query_id, document), record.where)
            self.noted.false_negatives += entry.judge(document, label)
            self.noted.other_scores += entry.add_score(document, score)
        return query_id

    def drop_copies(self, key_of: Callable[[str], int]) -> list[str]:
        """Remove the negatives of tuples whose text is the query's or a positive's, in any row, case or spacing, and
        lists that have no other document. Returns the ids of these negatives. `key_of` gives the key of a document's
        text (`text_key`)."""
        dropped = []
        for entry in self.lists.values():
            copies = _copies(entry, key_of) if entry.kind == "tuples" else []
            for document in copies:
                del entry.labels[document]
                del entry.scores[document]
            dropped += copies
        self.lists = {query_id: entry for query_id, entry in self.lists.items() if entry.labels}
        self.noted.false_negatives += len(dropped)
        return dropped


def query_id_of(record: ListRecord) -> str:
    """The id of a row's query and prompt."""
    return f"q{stable_hash('query', record.query.strip(), record.prompt or ''):016x}"


def group_by_query(
    records: Iterable[ListRecord],
    documents: dict[str, str],
    relevant_from: float | None = None,
    skipped: SkippedRows | None = None,
) -> dict[str, QueryGroup]:
    """Group rows by query (`Grouping`) in memory. The texts are added to `documents` by id. A negative whose text is
    the query or a positive of it (up to case and spacing), in any row, is left out. Raises ValueError if a document has
    two labels in one list, unless `skipped` notes the later row.
    """
    skipped = SkippedRows() if skipped is None else skipped
    grouping = Grouping(relevant_from)
    before = set(documents)
    for record in records:
        ids = [f"d{text_hash(text):016x}" for text in record.documents]
        try:
            grouping.add(record, ids)
        except ValueError as error:
            skipped.leave_out(record.where, error)
            continue
        for document, text in zip(ids, record.documents, strict=True):
            documents.setdefault(document, text)
    dropped = grouping.drop_copies(lambda document: text_key(documents[document]))
    listed = {document for entry in grouping.lists.values() for document in entry.labels} if dropped else set()
    for document in set(dropped) - listed - before:
        del documents[document]
    grouping.noted.announce()
    return grouping.lists


def _check_labels(
    record: ListRecord,
    known: Mapping[str, float],
    ids: Sequence[str],
    labels: Sequence[float],
    first: Callable[[str], str | None],
) -> None:
    """Raise ValueError if a document of the row has another label, in the row itself or at a `first` place. The
    negatives of tuples, which are often mined, may be positives elsewhere."""
    if record.kind == "tuples":
        return
    own: dict[str, float] = {}
    for document, text, label in zip(ids, record.documents, labels, strict=True):
        other = own.setdefault(document, known.get(document, label))
        if other != label:
            raise ValueError(
                f"{record.where}: document {_start(text)!r} of query {_start(record.query)!r} has the label "
                f"{label:g}, at {first(document) or record.where} it is {other:g}; keep one"
            )


def _copies(entry: QueryGroup, key_of: Callable[[str], int]) -> list[str]:
    negatives = [document for document, label in entry.labels.items() if label <= 0]
    if not negatives:
        return []
    keys = {key_of(document) for document, label in entry.labels.items() if label > 0} | {text_key(entry.query)}
    return [document for document in negatives if key_of(document) in keys]


def copies_in_lists(lists: Mapping[str, QueryGroup], documents: Mapping[str, str]) -> dict[str, set[str]]:
    """The documents of label 0 that are the query or a positive of it (up to case and spacing), of queries that have
    some. They are judged, so they stay in the data, but no training list has them as negatives."""
    found: dict[str, set[str]] = {}
    for query_id, entry in lists.items():
        if entry.kind == "tuples" or not entry.has_positive or min(entry.labels.values()) > 0:
            continue  # tuples have none left, and a list without a positive stays whole
        if copies := _copies(entry, lambda document: text_key(documents[document])):
            found[query_id] = set(copies)
    if found:
        logger.warning(
            "%d documents of label 0 are the query or a positive of it (equal up to case and spacing): no negatives",
            sum(map(len, found.values())),
        )
    return found


def labels_of(lists: Mapping[str, QueryGroup]) -> Mapping[str, dict[str, float]]:
    """The labels of the queries that have any."""
    return Derived(lists, lambda _, entry: entry.labels, lambda entry: entry.labelled)


def available_requirements(
    lists: Mapping[str, QueryGroup],
    adds_negatives: bool,
    degrees: str = "",
    copies: Mapping[str, AbstractSet[str]] = MappingProxyType({}),
) -> frozenset[str]:
    """What training lists of these queries provide for a loss. `adds_negatives`: whether other documents are added;
    `degrees`: why the labels are degrees of similarity, of which none means relevant or not; `copies`: the documents of
    each query that are no negatives of it (`copies_in_lists`)."""
    levels: set[float] = set()
    positive = relevance = comparison = several = False
    scored = bool(lists)
    for query_id, entry in lists.items():
        left_out = copies.get(query_id, ())
        kept = [label for document, label in entry.labels.items() if document not in left_out]
        several = several or len(kept) > 1
        scored = scored and not any(map(math.isnan, entry.scores.values()))
        if entry.labelled:
            levels.update(kept)
            positive = positive or max(kept) > 0
            relevance = relevance or max(kept) > 0 >= min(kept)
            comparison = comparison or len(set(kept)) > 1
    positive = positive and not degrees
    added = positive and adds_negatives
    varied = added or len(levels) > 1
    provided = {
        "positive": positive,
        "relevance": added or (positive and relevance),
        "comparison": added or comparison,
        "labels": varied and not degrees,
        "levels": varied,
        "unit_labels": varied and max(levels) <= 1,
        "several": added or several,
        "teacher_scores": scored,
    }
    return frozenset(name for name, is_provided in provided.items() if is_provided)


def _start(text: str) -> str:
    return text if len(text) <= START else f"{text[:START]}…"
