"""Statistics of a step: its batch, its scores and its speed, and notes about it that the terminal shows once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.batch import ListBatch
from data.truncation import cut_line
from engines.distributed.process_group import world_size
from engines.memory.kept_chunks import KeptChunks
from losses.contracts import has_in_batch_negatives
from trainers.options import TrainerConfig
from trainers.step import StepPlan
from trainers.training_progress import TrainingProgress


def batch_statistics(batch: ListBatch, loss: Any) -> dict[str, float]:
    """The number of documents that a query is compared with (those of the whole batch if the loss has in-batch
    negatives, else those of its list), and the shares of what was truncated."""
    documents, queries = int(batch.sizes.sum()), len(batch.sizes)
    truncated = truncation_statistics(batch)
    if not has_in_batch_negatives(loss) or batch.isolated is not None:
        return {"documents_per_query": documents / queries, **truncated}
    return {"documents_per_query": float(documents), "duplicates": float(batch.num_duplicates), **truncated}


def truncation_statistics(batch: ListBatch) -> dict[str, float]:
    """The shares of the sequences, of the queries and of the documents that were truncated, for an auxiliary model of
    its documents; nothing if the tokenizer does not count them."""
    lost, count = batch.sequences.truncated, batch.truncation
    auxiliary = {name: batch.auxiliary_truncation(name) for name in batch.examples[0].auxiliary}
    shares = {f"truncated_{name}_document_share": each.document_share for name, each in auxiliary.items() if each}
    if lost is None or count is None:
        return shares
    return {
        "truncated_share": float((lost > 0).any(axis=1).mean()),
        "truncated_query_share": count.query_share,
        "truncated_document_share": count.document_share,
        **shares,
    }


def cost_statistics(plan: StepPlan, seconds: float) -> dict[str, float]:
    """The number of chunks of a step, the share of padding in them, the share of all tokens that are not computed
    because sequences of a list share them, and the speed if the step took `seconds`."""
    return {
        "num_chunks": len(plan.chunks),
        "padding_share": 1 - plan.computed_tokens / plan.padded_tokens,
        "shared_share": 1 - plan.computed_tokens / plan.num_tokens,
        "rows_per_s": len(plan.sequences) / seconds,
        "tokens_per_s": plan.num_tokens / seconds,
    }


def checksum(scores: Tensor) -> Tensor:
    """The float64 sum of the scores times fixed weights cos(1), cos(2), ... Engines can be compared by it even if the
    value of the loss is always 0."""
    weights = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device).cos()
    return (scores.double() * weights).sum()


def note_chunks(progress: TrainingProgress, num_chunks: int, kept: KeptChunks, config: TrainerConfig) -> None:
    """Print a note if a step has fewer chunks than there are ranks, and how many chunks trainer.kept_chunks=auto keeps,
    once it is known."""
    if num_chunks < world_size():
        progress.note_once(
            "idle ranks",
            f"note: a step has {num_chunks} chunk(s) for {world_size()} ranks, so some are idle: lower "
            f"trainer.token_budget ({config.token_budget}) or raise trainer.batch_size",
        )
    if kept.chosen:
        progress.note_once("kept chunks", kept.chosen)


def note_truncation(progress: TrainingProgress, batch: ListBatch, step: int, max_length: int) -> None:
    """Print a warning if many texts of a step are cut to `max_length` tokens."""
    if batch.truncation is not None and batch.truncation.is_large:
        progress.note_once("truncation", cut_line({f"step {step}": batch.truncation}, max_length))
