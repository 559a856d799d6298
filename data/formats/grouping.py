"""Group the rows of a file by query."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from data.collection import normalised
from data.degrees import are_pairs
from data.formats.columns import ListRecord
from data.formats.skipped import SkippedRows
from data.hashing import stable_hash, text_hash

logger = logging.getLogger(__name__)


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


def group_by_query(
    records: Iterable[ListRecord],
    documents: dict[str, str],
    relevant_from: float | None = None,
    skipped: SkippedRows | None = None,
) -> dict[str, QueryGroup]:
    """Group rows of the same query and prompt into one list; every preference stays a list of its own.

    Labels of a column that are below `relevant_from` become 0. The texts are added to `documents` by id. A negative
    whose text is the query or a positive of it (up to case and spacing), in any row, is left out. Raises ValueError
    if a document has two labels in one list, unless `skipped` notes the later row.
    """
    skipped = SkippedRows() if skipped is None else skipped
    found: dict[str, QueryGroup] = {}
    places: dict[tuple[str, str], str] = {}
    rows_of_text: dict[str, int] = {}
    num_empty = other_scores = false_negatives = 0
    before = set(documents)
    for record in records:
        query_id = f"q{stable_hash('query', record.query.strip(), record.prompt or ''):016x}"
        if record.kind == "preferences":
            number = rows_of_text[query_id] = rows_of_text.get(query_id, 0) + 1
            query_id = f"{query_id}-{number}"
        entry = found.get(query_id) or QueryGroup(record.query, record.text_before_query, record.kind)
        labels = record.labels or [0.0] * len(record.documents)
        if record.labelled and relevant_from is not None:
            labels = [0.0 if label < relevant_from else label for label in labels]
        ids = [f"d{text_hash(text):016x}" for text in record.documents]
        try:
            _check_labels(record, entry.labels, ids, labels, partial(_first_place, places, query_id))
        except ValueError as error:
            skipped.leave_out(record.where, error)
            continue
        found[query_id] = entry
        num_empty += record.num_empty
        entry.labelled = entry.labelled and record.labels is not None
        entry.has_label_column = entry.has_label_column or record.labelled
        entry.weights.append(record.weight)
        scores = record.scores or [math.nan] * len(record.documents)
        for document, text, label, score in zip(ids, record.documents, labels, scores, strict=True):
            documents.setdefault(document, text)
            places.setdefault((query_id, document), record.where)
            false_negatives += entry.judge(document, label)
            other_scores += entry.add_score(document, score)
    dropped = [document for entry in found.values() for document in _drop_copies(entry, documents)]
    false_negatives += len(dropped)
    listed = {document for entry in found.values() for document in entry.labels} if dropped else set()
    for document in set(dropped) - listed - before:
        del documents[document]
    for number, what in (
        (num_empty, "documents without a text are left out of their lists"),
        (false_negatives, "negatives are the query or a positive of it (equal up to case and spacing): left out"),
        (
            other_scores,
            "teacher scores differ from an earlier row's of the same query and document: the last hold",
        ),
    ):
        if number:
            logger.warning("%d %s", number, what)
    return found


def _first_place(places: Mapping[tuple[str, str], str], query_id: str, document: str) -> str | None:
    return places.get((query_id, document))


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


def _drop_copies(entry: QueryGroup, documents: Mapping[str, str]) -> list[str]:
    """Remove the negatives of tuples whose text is the query's or a positive's, in any case or spacing. Returns their
    ids."""
    copies = _copies(entry, documents) if entry.kind == "tuples" else []
    for document in copies:
        del entry.labels[document]
        del entry.scores[document]
    return copies


def _copies(entry: QueryGroup, documents: Mapping[str, str]) -> list[str]:
    negatives = [document for document, label in entry.labels.items() if label <= 0]
    if not negatives:
        return []
    texts = {normalised(documents[document]) for document, label in entry.labels.items() if label > 0}
    texts.add(normalised(entry.query))
    return [document for document in negatives if normalised(documents[document]) in texts]


def copies_in_lists(lists: Mapping[str, QueryGroup], documents: Mapping[str, str]) -> dict[str, set[str]]:
    """The documents of label 0 that are the query or a positive of it (up to case and spacing), of queries that have
    some. They are judged, so they stay in the data, but no training list has them as negatives."""
    found: dict[str, set[str]] = {}
    for query_id, entry in lists.items():
        if not entry.has_positive or min(entry.labels.values()) > 0:
            continue  # a list without a positive stays whole
        if copies := _copies(entry, documents):
            found[query_id] = set(copies)
    if found:
        logger.warning(
            "%d documents of label 0 are the query or a positive of it (equal up to case and spacing): no negatives",
            sum(map(len, found.values())),
        )
    return found


def hold_out(
    lists: Mapping[str, QueryGroup],
    documents: Mapping[str, str],
    shares: Mapping[str, float],
    limit: int,
    degrees: bool = False,
) -> dict[str, list[str]]:
    """Hold out queries that can be evaluated, those with the lowest hashes of texts, at most `limit` per split. Returns
    the query ids of each split.

    Queries of equal text stay together. Each held-out split gets at least one query if there are more queries than
    splits. A correlation needs two labels: of `degrees` a split gets at least two queries, one with another label if
    there is one; of other pairs, queries without a relevant document are held out beside those that have one, in the
    same proportion.
    """
    evaluated, beside = evaluated_queries(lists, degrees)
    smallest = 2 if degrees else 1
    text_of = _text_keys(lists, documents, mirrored=degrees or bool(beside))
    ordered, ordered_beside = _texts_by_hash(evaluated, text_of), _texts_by_hash(beside, text_of)
    members = {text: [*ids, *ordered_beside.get(text, ())] for text, ids in ordered.items()}
    left = list(ordered) if len(ordered) > smallest * len(shares) else []
    left_beside = [text for text in ordered_beside if text not in members]
    splits: dict[str, list[str]] = {}
    for name, share in shares.items():
        size = min(max(smallest, round(share * len(ordered))), limit, len(left)) if share > 0 else 0
        if not size:
            continue
        more = max(1, round(size * (len(ordered_beside) - len(ordered_beside.keys() & members)) / len(ordered)))
        left = _second_label_first(left, size, members, lists) if degrees else left
        splits[name] = [query_id for text in left[:size] for query_id in members[text]]
        splits[name] += [query_id for text in left_beside[:more] for query_id in ordered_beside[text]]
        left, left_beside = left[size:], left_beside[more:]
    held_out = {query_id for ids in splits.values() for query_id in ids}
    return {"train": [query_id for query_id in lists if query_id not in held_out], **splits}


def _second_label_first(
    texts: list[str], size: int, members: Mapping[str, Sequence[str]], lists: Mapping[str, QueryGroup]
) -> list[str]:
    """The texts, with the first that brings another label moved into the first `size` if those have one label only."""

    def labels(text: str) -> set[float]:
        return {label for query_id in members[text] for label in lists[query_id].labels.values()}

    levels = {label for text in texts[:size] for label in labels(text)}
    other = next((text for text in texts[size:] if labels(text) - levels), None)
    if len(levels) > 1 or other is None:
        return texts
    return [*texts[: size - 1], other, *(text for text in texts[size - 1 :] if text != other)]


def labels_of(lists: Mapping[str, QueryGroup]) -> dict[str, dict[str, float]]:
    """The labels of the queries that have any."""
    return {query_id: entry.labels for query_id, entry in lists.items() if entry.labelled}


def evaluated_queries(lists: Mapping[str, QueryGroup], degrees: bool = False) -> tuple[list[str], list[str]]:
    """The queries that can be evaluated, and, of pairs, those that only a correlation or average precision needs:
    none of their documents is relevant. If labels are `degrees`, all that have labels can be evaluated."""
    labels = labels_of(lists)
    if degrees:
        return [query_id for query_id, entry in lists.items() if entry.labelled or entry.can_be_evaluated], []
    ranked = [query_id for query_id, entry in lists.items() if entry.can_be_evaluated]
    if not are_pairs(labels.values()):
        return ranked, []
    return ranked, [query_id for query_id in labels if not lists[query_id].has_positive]


def _texts_by_hash(query_ids: Sequence[str], text_of: Mapping[str, str]) -> dict[str, list[str]]:
    """The queries of each text, in the order in which texts are held out."""
    found: dict[str, list[str]] = {}
    for query_id in query_ids:
        found.setdefault(text_of[query_id], []).append(query_id)
    return {text: found[text] for text in sorted(found, key=lambda text: stable_hash("held out", text))}


def _text_keys(lists: Mapping[str, QueryGroup], documents: Mapping[str, str], mirrored: bool) -> dict[str, str]:
    """The normalised text by which a query is held out. If pairs may be `mirrored`, two queries that are each other's
    document share one, so that one split gets both."""
    texts = {query_id: normalised(entry.query) for query_id, entry in lists.items()}
    if not mirrored:
        return texts
    queries = set(texts.values())
    pairs = {(texts[query_id], normalised(documents[d])) for query_id, entry in lists.items() for d in entry.labels}
    parent = {text: text for text in queries}

    def root(text: str) -> str:
        while parent[text] != text:
            parent[text] = text = parent[parent[text]]
        return text

    for query, document in pairs:
        if document in queries and (document, query) in pairs:
            first, last = sorted((root(query), root(document)))
            parent[last] = first
    return {query_id: root(text) for query_id, text in texts.items()}


def available_requirements(
    lists: Mapping[str, QueryGroup],
    adds_negatives: bool,
    degrees: str = "",
    copies: Mapping[str, AbstractSet[str]] = MappingProxyType({}),
) -> frozenset[str]:
    """What training lists of these queries provide for a loss. `adds_negatives`: whether other documents are added;
    `degrees`: why the labels are degrees of similarity, of which none means relevant or not; `copies`: the documents of
    each query that are no negatives of it (`copies_in_lists`)."""
    kept = {query_id: entry.labels.keys() - copies.get(query_id, set()) for query_id, entry in lists.items()}
    labels = [[entry.labels[d] for d in kept[query_id]] for query_id, entry in lists.items() if entry.labelled]
    levels = {label for found in labels for label in found}
    positive = any(max(found) > 0 for found in labels) and not degrees
    added = positive and adds_negatives
    varied = added or len(levels) > 1
    provided = {
        "positive": positive,
        "relevance": added or (positive and any(max(found) > 0 >= min(found) for found in labels)),
        "comparison": added or any(len(set(found)) > 1 for found in labels),
        "labels": varied and not degrees,
        "levels": varied,
        "unit_labels": varied and max(levels) <= 1,
        "several": added or any(len(found) > 1 for found in kept.values()),
        "teacher_scores": bool(lists)
        and not any(math.isnan(score) for entry in lists.values() for score in entry.scores.values()),
    }
    return frozenset(name for name, is_provided in provided.items() if is_provided)


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
