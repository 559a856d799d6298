"""The number of tokens of each row of a chunk, as the host knows it that made the chunk.

It is apart from `models/packing/rows.py`, which reads it, so that those who tell it need not import transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_known: ContextVar[Sequence[int] | None] = ContextVar("known", default=None)


@contextmanager
def lengths_are_known(lengths: Sequence[int]) -> Iterator[None]:
    """A context in whose forward passes the rows have these numbers of tokens. Without it they are read from the mask:
    on a GPU the host then waits for all that was queued before."""
    token = _known.set(lengths)
    try:
        yield
    finally:
        _known.reset(token)


def row_lengths(mask: Tensor) -> list[int]:
    """The tokens of each row of an attention mask [rows, tokens]."""
    known = _known.get()
    # Lengths of another number of rows are not of these: a tower for queries runs a part of the rows.
    return [*known] if known is not None and len(known) == len(mask) else mask.sum(1).tolist()
