"""Rows of an output that data=file reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from data.collection import Collection, Split


def write_list(
    stream: IO[str],
    collection: Collection,
    split: Split,
    query: str,
    documents: Sequence[str],
    labels: Mapping[str, float] | None,
    scores: Sequence[float] | None = None,
) -> None:
    """Write the list of a query with its texts: its own prompt and weight, and a label and a score for each document,
    if there are such."""
    row: dict[str, Any] = {"query": split.queries[query]}
    if query in split.prompts:
        row["prompt"] = split.prompts[query]
    row["documents"] = [collection.documents[document] for document in documents]
    if labels is not None:
        row["labels"] = [whole(labels.get(document, 0)) for document in documents]
    if scores is not None:
        row["scores"] = list(scores)
    if query in split.weights:
        row["weight"] = split.weights[query]
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def teacher_scores(split: Split, query: str, documents: Sequence[str]) -> list[float] | None:
    """The teacher's scores of a list that the data bring; None if they have none for some of the documents."""
    if not split.ranked:
        return None
    known = dict(split.candidates.get(query, []))
    scores = [known.get(document, math.nan) for document in documents]
    return None if any(map(math.isnan, scores)) else scores


def shortest(score: float) -> float:
    """A score as the number with the fewest digits that is the same float32."""
    return float(str(np.float32(score)))


def whole(label: float) -> float | int:
    """A label, as a whole number if it is one."""
    return int(label) if float(label).is_integer() else label
