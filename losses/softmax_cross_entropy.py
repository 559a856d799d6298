"""Supervised listwise softmax cross-entropy, the usual warm start of a reranker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_positive
from losses.math.masking import masked_logits


@dataclass(frozen=True)
class SoftmaxCrossEntropy(ListLoss):
    """-sum_i y_i log softmax(s / temperature)_i  (rax `softmax_loss`; RankT5, eq. 4).

    Labels are weights and are not normalised: a list with two positives counts twice as much as one with a single
    positive, and grade 2 twice as much as grade 1. Padding has probability 0. A list is valid if a label is above 0.

    Use: the first choice for lists with relevant documents: a warm start, and the baseline to beat.
    Cost: n.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("positive", "several")

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        log_probs = masked_logits(scores, mask, self.temperature).log_softmax(dim=-1)
        labels = labels.to(log_probs.dtype).masked_fill(~mask, 0.0)
        return -(labels * log_probs).sum(dim=-1), (labels > 0).any(dim=-1)
