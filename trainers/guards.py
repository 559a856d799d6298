"""Checks during training: chunks that do not fit in memory, batches that are not finite, adapters that stay at 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from data.batch import ListBatch, TokenSequences
from engines.distributed.collectives import all_agree
from engines.memory.allocator import allocator_message, is_out_of_memory
from engines.protocol import NotFinite
from trainers.options import TrainerConfig


class ChunkOutOfMemory(MemoryError):
    """A chunk does not fit in memory. `indices`: its sequences in the global step, padded to `longest` tokens."""

    def __init__(self, indices: Sequence[int], longest: int):
        super().__init__(f"a chunk of {len(indices)} rows of {longest} tokens")
        self.indices = indices


@contextmanager
def detect_out_of_memory(sequences: TokenSequences, chunk: Sequence[int]) -> Iterator[None]:
    """Raise `ChunkOutOfMemory` if memory runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ChunkOutOfMemory(chunk, int(sequences.lengths[list(chunk)].max())) from error


@contextmanager
def explain_out_of_memory(batch: ListBatch, config: TrainerConfig) -> Iterator[None]:
    """Raise MemoryError, which names the longest row and the options to change, if a chunk of `batch` does not fit."""
    try:
        yield
    except ChunkOutOfMemory as error:
        longest = max(error.indices, key=lambda index: batch.sequences.lengths[index])
        query, document = batch.sequence_ids(longest)
        row = f"query {query}" + ("" if document is None else f", document {document}")
        raise MemoryError(
            f"out of memory in {error}, the longest {row}: lower trainer.kept_chunks ({config.kept_chunks}), then "
            f"trainer.token_budget ({config.token_budget} tokens a chunk), then model.max_length, or set "
            f"model.gradient_checkpointing=true; {allocator_message(error.__cause__ or error)}"
        ) from error


def nonfinite_line(batch: ListBatch, error: NotFinite, *, step: int, action: str) -> dict[str, Any]:
    """The line of nonfinite.jsonl: the ids of the batch, and of the sequences that are not finite unless all are."""
    rows = [batch.sequence_ids(row) for row in error.rows] if len(error.rows) < len(batch.sequences) else []
    return {
        "step": step,
        "batch": batch.number,
        "source": batch.source,
        "action": action,
        "reason": str(error),
        "rows": [{"query_id": query, "document_id": document} for query, document in rows],
        "queries": [
            {"query_id": example.query_id, "document_ids": list(example.document_ids)} for example in batch.examples
        ],
    }


def check_adapters_moved(model: nn.Module) -> None:
    """Raise RuntimeError, on every rank, if all LoRA matrices B, which start at 0, are still 0 after an update.

    Each rank checks its own part of the weights. Call it on all ranks.
    """
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]
    if adapters and all_agree(not any(_local_part(parameter).any() for parameter in adapters)):
        raise RuntimeError(
            f"the first update did not reach the LoRA adapters: all {len(adapters)} matrices B are still 0 after an "
            "update with a gradient that is not 0"
        )


def _local_part(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a weight under ZeRO-3, else the whole weight."""
    return getattr(parameter, "ds_tensor", parameter).detach()
