"""Which chunk did not fit in memory, what makes it large, and what to lower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data.batch import ListBatch, TokenRows
from engines.memory.allocator import allocator_says, is_out_of_memory
from trainers.options import TrainerConfig


class ChunkOutOfMemory(MemoryError):
    """The chunk of `rows` (of the global step), padded to `longest` tokens."""

    def __init__(self, rows: Sequence[int], longest: int):
        super().__init__(f"a chunk of {len(rows)} rows of {longest} tokens")
        self.rows = rows


@contextmanager
def chunk_named(rows: TokenRows, chunk: Sequence[int]) -> Iterator[None]:
    """Memory exhausted inside raises `ChunkOutOfMemory`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ChunkOutOfMemory(chunk, int(rows.lengths[list(chunk)].max())) from error


@contextmanager
def explained(batch: ListBatch, config: TrainerConfig) -> Iterator[None]:
    """A chunk of `batch` that does not fit raises MemoryError with its longest row and the options to change."""
    try:
        yield
    except ChunkOutOfMemory as error:
        longest = max(error.rows, key=lambda row: batch.rows.lengths[row])
        query, document = batch.row_ids(longest)
        row = f"query {query}" + ("" if document is None else f", document {document}")
        raise MemoryError(
            f"out of memory in {error}, the longest {row}: lower trainer.kept_chunks ({config.kept_chunks}), then "
            f"trainer.token_budget ({config.token_budget} tokens a chunk), then model.max_length, or set "
            f"model.gradient_checkpointing=true; {allocator_says(error.__cause__ or error)}"
        ) from error
