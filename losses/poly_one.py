"""Poly-1: the softmax cross-entropy with the first term of its polynomial expansion weighted up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import above_zero, finite, masked_logits


@dataclass(frozen=True)
class PolyOne(ListLoss):
    """-sum_i y_i log p_i + epsilon (1 - p_t), with p = softmax(s / temperature) and p_t = sum_i y_i p_i / sum_i y_i.

    Leng et al., arXiv 2204.12511; graded labels as rax's `poly1_softmax_loss`. epsilon 0 is the softmax
    cross-entropy. A list is valid where a label is above 0.

    Use: softmax cross-entropy that goes on learning from relevant documents of high probability.
    Cost: n.
    Source: Leng et al. 2022, arXiv 2204.12511; rax `poly1_softmax_loss`.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("positive", "several")

    epsilon: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        finite("epsilon", self.epsilon)
        above_zero("temperature", self.temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        log_probs = masked_logits(scores, mask, self.temperature).log_softmax(dim=-1)
        labels = labels.to(log_probs.dtype).masked_fill(~mask, 0.0)
        valid = (labels > 0).any(dim=-1)
        total = labels.sum(dim=-1).masked_fill(~valid, 1.0)
        target_probability = (labels * log_probs.exp()).sum(dim=-1) / total
        return -(labels * log_probs).sum(dim=-1) + self.epsilon * (1 - target_probability), valid
