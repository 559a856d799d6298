"""Statistics of a step: its batch, its scores and its speed, and notes about it that the terminal shows once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data.batch import ListBatch, to_device
from data.truncation import cut_line, limits_of
from engines.distributed.process_group import world_size
from engines.distributed.traffic import traffic_statistics
from engines.memory.kept_chunks import KeptChunks
from losses.contracts import LossInputs, has_in_batch_negatives, whole_losses
from losses.math.share import host_values
from trainers.options import TrainerConfig
from trainers.sharded.share import Sharing
from trainers.step import StepPlan
from trainers.training_progress import TrainingProgress


def batch_statistics(batch: ListBatch, loss: Any, sharing: Sharing) -> dict[str, float]:
    """The number of documents that a query is compared with (those of the whole batch, or of some ranks, if the loss
    has in-batch negatives, else those of its list), and the shares of what was truncated."""
    documents, queries = int(batch.sizes.sum()), len(batch.sizes)
    truncated = truncation_statistics(batch)
    if not has_in_batch_negatives(loss) or batch.isolated is not None:
        return {"documents_per_query": documents / queries, **truncated}
    compared = sharing.documents_per_query(batch.sizes)
    return {"documents_per_query": compared, "duplicates": float(batch.num_duplicates), **truncated}


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
    """The number of chunks of a step, the share of padding in them, the share of all tokens that equal rows repeat,
    that of the others which sequences of a list share, neither of which are computed again, the speed, with all
    tokens, if the step took `seconds`, and the traffic of this rank."""
    return {
        "num_chunks": len(plan.chunks),
        "padding_share": 1 - plan.computed_tokens / plan.padded_tokens,
        "repeated_share": 1 - plan.distinct_tokens / plan.num_tokens,
        "shared_share": 1 - plan.computed_tokens / plan.distinct_tokens,
        "rows_per_s": plan.num_rows / seconds,
        "tokens_per_s": plan.num_tokens / seconds,
        **traffic_statistics(),
    }


def checksum(lists: LossInputs) -> Tensor:
    """The float64 sum of the scores of all documents of the step times fixed weights cos(1), cos(2), ... Engines can be
    compared by it even if the value of the loss is always 0."""
    scores, mask = lists.list_scores().detach(), lists.mask
    sizes = host_values(mask, lists.share).sum(dim=1)
    before = (sizes.cumsum(0) - sizes)[lists.share.own(len(sizes)).clamp(max=len(sizes) - 1)]
    # Numbered through without cutting padding out, for which the host would have to know the size.
    numbers = to_device(before, mask.device).unsqueeze(1) + mask.cumsum(1)
    return lists.share.sum((scores.double() * numbers.double().cos()).masked_fill(~mask, 0.0).sum())


def note(
    progress: TrainingProgress,
    plan: StepPlan,
    batch: ListBatch,
    config: TrainerConfig,
    tokenizer: Any,
    kept: KeptChunks,
    loss: Any,
) -> None:
    """Print a note if a step has fewer chunks than there are ranks, how many chunks trainer.kept_chunks=auto keeps once
    it is known, and a warning if many of its texts are cut by `tokenizer`; each once in a run."""
    if len(plan.chunks) < world_size():
        progress.note_once(
            "idle ranks",
            f"note: a step has {len(plan.chunks)} chunk(s) for {world_size()} ranks, so some are idle: lower "
            f"trainer.token_budget ({config.token_budget}) or raise trainer.batch_size",
        )
    if world_size() > 1 and (whole := whole_losses(loss)):
        names = " and ".join(sorted({type(each).__name__ for each in whole}))
        progress.note_once(
            f"whole {names}",
            f"note: every rank computes loss {names} of the lists of all ranks, so its time and memory do not fall "
            "with the ranks (CONTRIBUTING.md says how a loss is sharded)",
        )
    if kept.chosen:
        progress.note_once("kept chunks", kept.chosen)
    if batch.truncation is not None and batch.truncation.is_large:
        progress.note_once("truncation", cut_line({f"step {plan.step}": batch.truncation}, limits_of(tokenizer)))
