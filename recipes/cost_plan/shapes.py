"""The shapes of chunks: which of them are run on tensors without data, and what the others' costs are fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from data.collate import Collator, PackedCollator

TRACED_SHAPES = 6  # shapes of chunks that are run; the costs of the others follow from a fit

Shape = tuple[int, int]  # rows, tokens of each


def columns(shape: Shape) -> list[float]:
    """What the cost of n rows of L tokens is a sum of: n L^2 (attention), n L (activations), n (a row), 1."""
    rows, tokens = shape
    return [rows * tokens**2, rows * tokens, rows, 1.0]


def sample_shapes(shapes: Iterable[Shape], number: int = TRACED_SHAPES) -> list[Shape]:
    """Up to `number` shapes from the shortest rows to the longest, and two that separate the cost of a row from that
    of any chunk: one with half the rows, one with half the tokens."""
    ordered = sorted(set(shapes), key=lambda shape: (shape[1], shape[0]))
    chosen = {ordered[round(i * (len(ordered) - 1) / (number - 1))] for i in range(number)}
    rows, tokens = max(chosen, key=lambda shape: shape[0] * shape[1])
    return sorted(chosen | {(max(rows // 2, 1), tokens), (rows, max(tokens // 2, 8))})


def chunk_shapes(lengths: Sequence[int], token_budget: int, *, packed: bool = False) -> list[Shape]:
    """The shape of each chunk of a step with sequences of these lengths. If they are packed, a chunk counts as that
    number of rows of their mean length."""
    if not packed:
        collator = Collator({}, token_budget)
        return [collator.shape(lengths, chunk) for chunk in collator.plan(lengths)]
    chunks = PackedCollator({}, token_budget).plan(lengths)
    return [(len(chunk), math.ceil(sum(lengths[index] for index in chunk) / len(chunk))) for chunk in chunks]
