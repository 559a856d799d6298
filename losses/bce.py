"""Pointwise binary cross-entropy: each document by itself, relevant or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import at_least_float32, check_positive_weight, positive_weights


@dataclass(frozen=True)
class BinaryCrossEntropy(ListLoss):
    """-1/n sum_i [w y_i logsigmoid(s_i) + (1 - y_i) logsigmoid(-s_i)], y_i = 1 where the label is above 0.

    The mean over the list's n documents, then over lists: torch's `binary_cross_entropy_with_logits` on all documents
    of a batch is the same where the lists are equally long, and lets long lists weigh more where they are not.

    `pos_weight` is w: a number, None for 1, or "auto", the list's own number of negatives per positive, so that both
    sides weigh the same; 1 for a list that has only one of them. It is the list's and not the batch's, so that the
    other lists of a batch do not change a list's gradient. Every list that is not empty counts.

    Use: scores that are to be probabilities, or documents judged one by one.
    Cost: n.
    Source: torch's `binary_cross_entropy_with_logits`, by list.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("labels",)
    shift_invariant: ClassVar[bool] = False  # scores are log-odds: their level is learned

    pos_weight: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        check_positive_weight(self.pos_weight)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        scores = at_least_float32(scores).masked_fill(~mask, 0.0)
        positive, negative = ((labels > 0) & mask).to(scores.dtype), ((labels <= 0) & mask).to(scores.dtype)
        weight = positive_weights(labels > 0, mask, self.pos_weight)
        losses = -weight * positive * F.logsigmoid(scores) - negative * F.logsigmoid(-scores)
        return losses.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1), mask.any(dim=-1)
