"""ADR-MSE: the squared error of approximate ranks, discounted by the true rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.approx import approximate_ranks
from losses.contracts import ListLoss
from losses.math.checks import check_positive
from losses.math.pairs import label_pairs


@dataclass(frozen=True)
class ADRMSE(ListLoss):
    """mean_i (r*_i - rank_i)^2 / log2(1 + r*_i), r* the rank by label, rank the approximate one.

    Schlatt et al. 2025 (Rank-DistiLLM); sentence-transformers `ADRMSELoss`, whose alpha is 1 / temperature. Documents
    of equal label share the mean of their ranks, and so do documents of equal score. The mean is over a list's
    documents, then over lists; sentence-transformers takes it over all documents of the batch. A list is valid if two
    documents have different labels. Memory n^2 per list.

    Use: labels that are a teacher's ranking, such as an LLM's; errors at the top count most.
    Cost: n^2.
    Source: Schlatt et al. 2025, Rank-DistiLLM; sentence-transformers `ADRMSELoss`.
    """

    saturates: ClassVar[bool] = True  # the sigmoid of a wide margin is flat

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        pairs, num_documents = label_pairs(labels, mask), mask.sum(dim=-1, keepdim=True)
        above, below = pairs.sum(dim=-2), pairs.sum(dim=-1)
        true_ranks = (above + num_documents - below + 1) / 2  # the mean of the first and the last rank of a tie
        errors = (true_ranks - approximate_ranks(scores, mask, temperature=self.temperature)) ** 2
        discounted = (errors / torch.log2(1 + true_ranks)).masked_fill(~mask, 0.0)
        return discounted.sum(dim=-1) / num_documents.squeeze(-1).clamp(min=1), pairs.any(dim=(-2, -1))
