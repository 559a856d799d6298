"""Supervised listwise softmax cross-entropy: the warm start of a reranker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.lists import above_zero, masked_logits


def softmax_cross_entropy(scores: Tensor, labels: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean over valid lists of  -sum_i y_i log softmax(s / temperature)_i  (rax `softmax_loss`; RankT5, eq. 4).

    The labels weigh as they are: a list of two positives counts twice one of a single positive, grade 2 twice grade 1.

    Args:
        scores: [..., n] any floating dtype; computed in float32 at least.
        labels: [..., n] relevance >= 0 (graded or binary).
        mask: [..., n] bool, False at padding, which takes no part whatever stands there.

    Returns:
        A scalar. A list is valid where a label is above 0; without any valid list, zero with a zero gradient.
    """
    log_probs = masked_logits(scores, mask, temperature).log_softmax(dim=-1)
    labels = labels.to(log_probs.dtype).masked_fill(~mask, 0.0)
    num_valid = (labels > 0).any(dim=-1).sum()
    return -(labels * log_probs).sum() / num_valid.clamp(min=1)


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """Options of `softmax_cross_entropy`."""

    contract: ClassVar[str] = "list"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """scores, labels, mask: [..., n] -> scalar."""
        return softmax_cross_entropy(scores, labels, mask, temperature=self.temperature)
