"""What a trainer watches: chunks that do not fit in memory, batches that are not finite, adapters that do not move."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from data.batch import ListBatch, TokenSequences
from engines.distributed.collectives import all_agree
from engines.memory.allocator import allocator_says, is_out_of_memory
from engines.protocol import NotFinite
from runs.files import json_safe
from trainers.options import TrainerConfig


class ChunkOutOfMemory(MemoryError):
    """The chunk of `rows` (of the global step), padded to `longest` tokens."""

    def __init__(self, rows: Sequence[int], longest: int):
        super().__init__(f"a chunk of {len(rows)} rows of {longest} tokens")
        self.rows = rows


@contextmanager
def chunk_named(rows: TokenSequences, chunk: Sequence[int]) -> Iterator[None]:
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


def write_down(file: Path, batch: ListBatch, error: NotFinite, *, step: int, action: str) -> None:
    """A line of nonfinite.jsonl: the ids of the batch, and of the rows that were not finite where these are some."""
    rows = [batch.row_ids(row) for row in error.rows] if len(error.rows) < len(batch.rows) else []
    record = {
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
    with file.open("a") as stream:
        stream.write(json.dumps(json_safe(record), allow_nan=False) + "\n")


def check_adapters_moved(model: nn.Module) -> None:
    """Raise RuntimeError, on every rank, where all of LoRA's B, which starts at 0, is still 0 after an update.

    Each rank looks at what it holds of the weights. All ranks must call it together.
    """
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]
    if adapters and all_agree(not any(_held(parameter).any() for parameter in adapters)):
        raise RuntimeError(
            f"the first update did not reach the LoRA adapters: all {len(adapters)} matrices B are still 0 after a "
            "gradient that was not"
        )


def _held(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a weight that ZeRO-3 shards, else the whole."""
    return getattr(parameter, "ds_tensor", parameter).detach()
