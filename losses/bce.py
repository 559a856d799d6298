"""Pointwise binary cross-entropy: each document alone, relevant or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_pos_weight
from losses.math.masking import at_least_float32, positive_weights


@dataclass(frozen=True)
class BinaryCrossEntropy(ListLoss):
    """-1/n sum_i [w y_i logsigmoid(s_i) + (1 - y_i) logsigmoid(-s_i)], y_i = 1 if the label is above 0, else 0.

    The mean is over a list's n documents, then over lists. torch's `binary_cross_entropy_with_logits` over all
    documents of a batch is the same if all lists have the same length; if not, it gives long lists more weight.

    `pos_weight` is w: a number, None for 1, or "auto", the list's number of negatives per positive, so that both kinds
    have the same total weight (1 for a list that has only one kind). "auto" is computed per list and not per batch: so
    other lists do not change a list's gradient. Every list with a document is valid.

    Use: scores that should be probabilities, or documents judged one by one.
    Cost: n.
    Source: torch's `binary_cross_entropy_with_logits`, by list.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("labels",)
    shift_invariant: ClassVar[bool] = False  # scores are log-odds: a constant added to them changes the loss

    pos_weight: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        check_pos_weight(self.pos_weight)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        scores = at_least_float32(scores).masked_fill(~mask, 0.0)
        positive, negative = ((labels > 0) & mask).to(scores.dtype), ((labels <= 0) & mask).to(scores.dtype)
        weight = positive_weights(labels > 0, mask, self.pos_weight)
        losses = -weight * positive * F.logsigmoid(scores) - negative * F.logsigmoid(-scores)
        return losses.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1), mask.any(dim=-1)
