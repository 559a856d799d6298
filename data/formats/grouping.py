"""Group the rows of a file by query."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data.collection import normalised
from data.formats.columns import ListRecord
from data.hashing import stable_hash, text_hash

logger = logging.getLogger(__name__)


@dataclass
class QueryGroup:
    """One query with the labels and teacher scores (NaN: none) of its documents. `labelled`: whether the rows have
    labels."""

    query: str
    prompt: str | None
    kind: str
    labels: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    labelled: bool = True
    weights: list[float] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """The mean weight of its rows."""
        return sum(self.weights) / len(self.weights)

    @property
    def has_positive(self) -> bool:
        return self.labelled and max(self.labels.values()) > 0

    @property
    def compares(self) -> bool:
        """Whether some of its documents are better than others."""
        return len(set((self.labels if self.labelled else self.scores).values())) > 1

    @property
    def can_be_evaluated(self) -> bool:
        return self.has_positive or (not self.labelled and self.compares)

    def grades(self, scale: int) -> dict[str, int]:
        """Integer grades for evaluation: labels times `scale`; without labels, 1 for the teacher's best document."""
        if self.labelled:
            return {document: round(scale * label) for document, label in self.labels.items()}
        best = max(self.scores, key=lambda document: self.scores[document])
        return {document: int(document == best) for document in self.labels}


def group_by_query(records: Iterable[ListRecord], documents: dict[str, str]) -> dict[str, QueryGroup]:
    """Group rows of the same query and prompt into one list; every preference stays a list of its own.

    The texts are added to `documents` by id. Raises ValueError if a document has two labels in one list. In tuples,
    whose negatives are often mined, a document is relevant if it is a positive in any row.
    """
    found: dict[str, QueryGroup] = {}
    places: dict[tuple[str, str], str] = {}
    rows_of_text: dict[str, int] = {}
    false_negatives = 0
    for record in records:
        query_id = f"q{stable_hash('query', record.query.strip(), record.prompt or ''):016x}"
        if record.kind == "preferences":
            number = rows_of_text[query_id] = rows_of_text.get(query_id, 0) + 1
            query_id = f"{query_id}-{number}"
        entry = found.setdefault(query_id, QueryGroup(record.query, record.prompt, record.kind))
        entry.labelled = entry.labelled and record.labels is not None
        entry.weights.append(record.weight)
        labels = record.labels or [0.0] * len(record.documents)
        scores = record.scores or [math.nan] * len(record.documents)
        for text, label, score in zip(record.documents, labels, scores, strict=True):
            document = f"d{text_hash(text):016x}"
            documents.setdefault(document, text)
            other = entry.labels.get(document, label)
            first = places.setdefault((query_id, document), record.where)
            if other != label:
                if record.kind != "tuples":
                    raise ValueError(
                        f"{record.where}: document {_start(text)!r} of query {_start(record.query)!r} has the label "
                        f"{label:g}, at {first} it is {other:g}; keep one"
                    )
                false_negatives += 1
            entry.labels[document] = max(label, other)
            if not math.isnan(score) or document not in entry.scores:
                entry.scores[document] = score
    if false_negatives:
        logger.warning("%d negatives are relevant to the same query in another row: taken as relevant", false_negatives)
    return found


def hold_out(lists: Mapping[str, QueryGroup], shares: Mapping[str, float], limit: int) -> dict[str, list[str]]:
    """Hold out queries that can be evaluated, those with the lowest hashes of texts, at most `limit` per split. Returns
    the query ids of each split.

    Queries of equal text stay together. Each held-out split gets at least one query if there are more queries than
    splits.
    """
    by_text: dict[str, list[str]] = {}
    for query_id, entry in lists.items():
        if entry.can_be_evaluated:
            by_text.setdefault(normalised(entry.query), []).append(query_id)
    ordered = sorted(by_text, key=lambda text: stable_hash("held out", text))
    splits: dict[str, list[str]] = {}
    taken = 0
    for name, share in shares.items():
        size = min(max(1, round(share * len(ordered))), limit) if share > 0 and len(ordered) > len(shares) else 0
        if size:
            splits[name] = [query_id for text in ordered[taken : taken + size] for query_id in by_text[text]]
        taken += size
    held_out = {query_id for ids in splits.values() for query_id in ids}
    return {"train": [query_id for query_id in lists if query_id not in held_out], **splits}


def available_requirements(lists: Sequence[QueryGroup], adds_negatives: bool) -> frozenset[str]:
    """What training lists of these queries provide for a loss. `adds_negatives`: whether other documents are added."""
    labelled = [entry for entry in lists if entry.labelled]
    levels = {label for entry in labelled for label in entry.labels.values()}
    # One document with a fraction as label, as in sentence similarity, is neither relevant nor irrelevant.
    similarity = any(not level.is_integer() for level in levels) and not any(entry.compares for entry in labelled)
    positive = any(entry.has_positive for entry in labelled) and not similarity
    added = positive and adds_negatives
    provided = {
        "positive": positive,
        "comparison": added or any(entry.compares for entry in labelled),
        "labels": added or len(levels) > 1,
        "several": added or any(len(entry.labels) > 1 for entry in lists),
        "teacher_scores": bool(lists)
        and not any(math.isnan(score) for entry in lists for score in entry.scores.values()),
    }
    return frozenset(name for name, is_provided in provided.items() if is_provided)


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
