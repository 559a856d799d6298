"""What a step says of its batch and its scores, beside the loss and its own statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.batch import ListBatch
from losses.contracts import has_in_batch_negatives


def batch_statistics(batch: ListBatch, loss: Any) -> dict[str, float]:
    """What documents a query is compared with (of the whole batch where the loss compares lists, else its own), and the
    share of the rows that were truncated."""
    documents, queries = int(batch.sizes.sum()), len(batch.sizes)
    lost = batch.rows.truncated
    truncated = {} if lost is None else {"truncated_share": float((lost > 0).mean())}
    if not has_in_batch_negatives(loss):
        return {"documents_per_query": documents / queries, **truncated}
    return {"documents_per_query": float(documents), "duplicates": float(batch.num_duplicates), **truncated}


def checksum(scores: Tensor) -> Tensor:
    """Float64 sum of the scores times fixed weights cos(1), cos(2), ...: compares engines where a loss is always 0."""
    weights = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device).cos()
    return (scores.double() * weights).sum()
