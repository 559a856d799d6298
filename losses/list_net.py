"""ListNet: the cross-entropy between the softmax of the labels and that of the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_positive
from losses.math.masking import masked_logits


@dataclass(frozen=True)
class ListNet(ListLoss):
    """-sum_i softmax(y / label_temperature)_i log softmax(s / temperature)_i  (Cao et al. 2007, the top-1 case).

    A low `label_temperature` sharpens the target: at 1, a document of label 1 has only e times the probability of one
    of label 0. Padding has probability 0. Equal labels teach equal scores, so every list of two documents or more is
    valid.

    Use: graded labels as a probability distribution over the list.
    Cost: n.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("levels", "several")

    temperature: float = 1.0
    label_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_positive("label_temperature", self.label_temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        log_probs = masked_logits(scores, mask, self.temperature).log_softmax(dim=-1)
        target = masked_logits(labels, mask, self.label_temperature).softmax(dim=-1).to(log_probs.dtype)
        return -(target * log_probs).sum(dim=-1), mask.sum(dim=-1) > 1
