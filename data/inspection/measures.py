"""Measure the texts of each role and the judgements of each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.collection import is_empty
from data.inspection.content import Content, spread_evenly
from data.inspection.tokens import TokenCounts
from data.inspection.unspaced import count_words
from data.languages import SAMPLED_CHARACTERS, SAMPLED_DOCUMENTS, detect, letters_by_script

MEASURED = 50_000  # texts of a role whose words are counted
MIN_SHARE = 0.005  # of a script that is named
MAX_LEVELS = 12  # most different labels that are counted one by one


@dataclass(frozen=True)
class Spread:
    """The smallest, the 5th, 50th and 95th percentile, and the largest of some numbers."""

    minimum: float
    low: float
    median: float
    high: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The spread of the values; None if there are none."""
        numbers = np.fromiter(values, dtype=float)
        if not len(numbers):
            return None
        low, median, high = np.percentile(numbers, (5, 50, 95))
        return cls(float(numbers.min()), float(low), float(median), float(high), float(numbers.max()))

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return f"{self.minimum:g}"
        return f"{self.minimum:g} to {self.maximum:g} (5 %: {self.low:g}, median {self.median:g}, 95 %: {self.high:g})"


@dataclass(frozen=True)
class RoleMeasures:
    """The queries, or the documents: lengths in words and in tokens of the model, language and scripts."""

    role: str
    total: int
    num_empty: int
    words: Spread | None
    tokens: Spread | None
    cut_share: float | None  # of the texts that the model cuts
    unknown_share: float | None  # of the tokens that the model does not know
    language: str
    scripts: dict[str, float]
    word_counts: tuple[int, ...] = ()
    token_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class SplitMeasures:
    """The judgements of one split: one of each document of a list, however many rows repeat it."""

    split: str
    queries: int
    judgements: int
    positives: Spread | None
    negatives: Spread | None
    labels: dict[str, int]  # how often each occurs; empty if there are many, or none
    label_spread: Spread | None
    positive_counts: tuple[int, ...] = ()
    negative_counts: tuple[int, ...] = ()


def measure_roles(content: Content, tokens: TokenCounts | None) -> list[RoleMeasures]:
    """The measures of queries and of documents."""
    queries = [text for _, text in content.query_texts()]
    documents = [text.text for text in content.documents.values()]
    return [_role("query", queries, tokens), _role("document", documents, tokens)]


def _role(role: str, texts: Sequence[str], tokens: TokenCounts | None) -> RoleMeasures:
    words = tuple(map(count_words, spread_evenly(texts, MEASURED)))
    sample = [text[:SAMPLED_CHARACTERS] for text in spread_evenly(texts, SAMPLED_DOCUMENTS)]
    letters = letters_by_script(sample)
    total = sum(letters.values())
    counts = tokens.lengths.get(role, ()) if tokens else ()
    return RoleMeasures(
        role,
        total=len(texts),
        num_empty=sum(map(is_empty, texts)),
        words=Spread.of(words),
        tokens=Spread.of(counts),
        cut_share=tokens.cut_shares.get(role) if tokens else None,
        unknown_share=tokens.unknown.get(role) if tokens else None,
        language=detect(sample).language if letters else "none",
        scripts={name: count / total for name, count in letters.most_common() if count >= MIN_SHARE * total},
        word_counts=words,
        token_counts=counts,
    )


def measure_splits(content: Content) -> list[SplitMeasures]:
    """The measures of each split that has judgements or rows."""
    found = []
    groups: dict[str, list[list[float | None]]] = {split: [] for split in content.judged_splits}
    for split, own in content.labels():
        groups[split].append(list(own.values()))
    for split, lists in groups.items():
        labels = [label for labels in lists for label in labels if label is not None]
        degrees = bool(content.degrees.get(split))
        judged = [] if degrees else [[label for label in own if label is not None] for own in lists]
        positives = tuple(sum(label > 0 for label in own) for own in judged if own)
        negatives = tuple(sum(label <= 0 for label in own) for own in judged if own)
        levels = Counter(labels)
        found.append(
            SplitMeasures(
                split,
                queries=len(content.queries.get(split, {})),
                judgements=sum(map(len, lists)),
                positives=Spread.of(positives),
                negatives=Spread.of(negatives),
                labels={f"{level:g}": count for level, count in sorted(levels.items())}
                if len(levels) <= MAX_LEVELS
                else {},
                label_spread=Spread.of(labels),
                positive_counts=positives,
                negative_counts=negatives,
            )
        )
    return found
