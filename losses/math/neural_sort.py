"""NeuralSort (a relaxation of sorting), its hard limit, and Sinkhorn scaling of its matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.math.masking import masked_logits
from losses.math.pairs import differences


def _ranks(mask: Tensor, k: int) -> Tensor:
    """Return 1, ..., k."""
    return torch.arange(1, k + 1, device=mask.device)


def _filled_ranks(mask: Tensor, k: int) -> Tensor:
    """Return [..., k] bool: whether the list has a document at that rank. mask (bool): [..., n]."""
    return _ranks(mask, k) <= mask.sum(dim=-1, keepdim=True)


def neural_sort(scores: Tensor, mask: Tensor, *, temperature: float, k: int) -> Tensor:
    """Return the log of the relaxed permutation matrix: row r is a distribution over the document of rank r.

    log softmax_i(((N + 1 - 2r) s_i - sum_j |s_i - s_j|) / temperature), N the number of the list's documents  (Grover
    et al. 2019, eq. 5). Rank 1 is the best. Each row sums to 1, the columns need not. Padding and the rows beyond N are
    `finfo.min`. Memory n^2 per list.

    scores, mask (bool): [..., n] -> [..., k, n], the ranks 1 to k.
    """
    scores = masked_logits(scores, mask, 1.0).masked_fill(~mask, 0.0)  # a constant shift, for smaller rounding errors
    distances = differences(scores, mask).abs().masked_fill(~mask.unsqueeze(-2), 0.0).sum(dim=-1)
    factors = mask.sum(dim=-1, keepdim=True) + 1 - 2 * _ranks(mask, k)
    logits = (factors.unsqueeze(-1) * scores.unsqueeze(-2) - distances.unsqueeze(-2)) / temperature
    lowest = torch.finfo(logits.dtype).min
    rows = logits.masked_fill(~mask.unsqueeze(-2), lowest).log_softmax(dim=-1)
    return rows.masked_fill(~(_filled_ranks(mask, k).unsqueeze(-1) & mask.unsqueeze(-2)), lowest)


def hard_sort(scores: Tensor, mask: Tensor, *, k: int) -> Tensor:
    """Return the limit of `exp(neural_sort)` as temperature -> 0, without gradient.

    Documents of equal score share their ranks: gains sorted by this matrix are the mean over all orders of the ties. So
    the order of the documents does not matter. scores, mask (bool): [..., n] -> [..., k, n], 0 at padding.
    """
    margins = differences(scores.detach(), mask)
    above = ((margins < 0) & mask.unsqueeze(-2)).sum(dim=-1).unsqueeze(-2)
    tied = ((margins == 0) & mask.unsqueeze(-2)).sum(dim=-1).unsqueeze(-2)
    ranks = _ranks(mask, k).unsqueeze(-1)
    shared = (above < ranks) & (ranks <= above + tied) & mask.unsqueeze(-2)
    return shared / tied.clamp(min=1).to(margins.dtype)


def sinkhorn(log_rows: Tensor, mask: Tensor, *, num_iterations: int) -> Tensor:
    """Scale columns and rows in turn to sum to 1  (Sinkhorn 1964), in the log domain to avoid underflow.

    In the end the rows sum to 1 exactly and the columns approximately. Both are over the list's own ranks and
    documents; all else is 0. Padding is a separate block that changes nothing. Memory n^2 num_iterations per list, for
    the backward.

    log_rows: [..., n, n] with ranks 1 to n as rows; mask (bool): [..., n] -> [..., n, n].
    """
    rows, columns = _filled_ranks(mask, mask.shape[-1]).unsqueeze(-1), mask.unsqueeze(-2)
    logits = log_rows.masked_fill(~(rows | columns), 0.0).masked_fill(rows ^ columns, torch.finfo(log_rows.dtype).min)
    for _ in range(num_iterations):
        logits = logits.log_softmax(dim=-2).log_softmax(dim=-1)
    return logits.exp().masked_fill(~(rows & columns), 0.0)
