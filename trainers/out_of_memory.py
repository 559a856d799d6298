"""Chunks that do not fit in memory: which rows they hold, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from data.batch import ListBatch
from engines.memory.allocator import allocator_message, is_out_of_memory
from engines.memory.kept_chunks import KeptChunks
from trainers.options import TrainerConfig


class ChunkOutOfMemory(MemoryError):
    """A chunk does not fit in memory. `indices`: its sequences in the global step."""

    def __init__(self, indices: Sequence[int], description: str):
        super().__init__(description)
        self.indices = indices


@contextmanager
def detect_out_of_memory(rows: Sequence[int], describe: Callable[[], str]) -> Iterator[None]:
    """Raise `ChunkOutOfMemory` if memory runs out inside. `rows`: those of the chunk, `describe`: words for it."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ChunkOutOfMemory(rows, describe()) from error


@contextmanager
def explain_out_of_memory(batch: ListBatch, config: TrainerConfig, kept: KeptChunks) -> Iterator[None]:
    """Raise MemoryError, which names the longest row and the options to change, if a chunk of `batch` does not fit."""
    try:
        yield
    except ChunkOutOfMemory as error:
        longest = max(error.indices, key=lambda index: batch.sequences.lengths[index])
        query, document = batch.sequence_ids(longest)
        row = f"query {query}" + ("" if document is None else f", document {document}")
        raise MemoryError(
            f"out of memory in {error}, the longest {row}: {_remedy(kept)}, then "
            f"trainer.token_budget ({config.token_budget} tokens a chunk), then model.max_length, or set "
            f"model.gradient_checkpointing=true; {allocator_message(error.__cause__ or error)}"
        ) from error


def _remedy(kept: KeptChunks) -> str:
    """What to do about the chunks that are kept. Of a number that was chosen by measurement a half is a new start."""
    if kept.is_auto and kept.count > 1:
        return f"set trainer.kept_chunks={kept.count // 2} (auto chose {kept.count})"
    return f"lower trainer.kept_chunks ({kept})"
