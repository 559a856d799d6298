"""Poly-1: softmax cross-entropy with more weight on the first term of its polynomial expansion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_finite, check_positive
from losses.math.masking import masked_logits


@dataclass(frozen=True)
class PolyOne(ListLoss):
    """-sum_i y_i log p_i + epsilon (1 - p_t), with p = softmax(s / temperature) and p_t = sum_i y_i p_i / sum_i y_i.

    Leng et al., arXiv 2204.12511; graded labels as in rax's `poly1_softmax_loss`. With epsilon 0 it is softmax
    cross-entropy. Padding has probability 0. A list is valid if a label is above 0.

    Use: softmax cross-entropy that also learns from relevant documents that already have a high probability.
    Cost: n.
    Source: Leng et al. 2022, arXiv 2204.12511; rax `poly1_softmax_loss`.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("positive", "several")

    epsilon: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_finite("epsilon", self.epsilon)
        check_positive("temperature", self.temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        log_probs = masked_logits(scores, mask, self.temperature).log_softmax(dim=-1)
        labels = labels.to(log_probs.dtype).masked_fill(~mask, 0.0)
        valid = (labels > 0).any(dim=-1)
        total = labels.sum(dim=-1).masked_fill(~valid, 1.0)
        target_probability = (labels * log_probs.exp()).sum(dim=-1) / total
        return -(labels * log_probs).sum(dim=-1) + self.epsilon * (1 - target_probability), valid
