"""ListNet: the softmax of the scores towards that of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import above_zero, masked_logits


@dataclass(frozen=True)
class ListNet(ListLoss):
    """-sum_i softmax(y / label_temperature)_i log softmax(s / temperature)_i  (Cao et al. 2007, the top-1 case).

    A low `label_temperature` sharpens the target: at 1 a document of label 1 gets only e times the probability of one
    of label 0. Equal labels ask for equal scores, so every list of two documents or more is valid.

    Use: graded labels as a distribution over the list, each grade a share.
    Cost: n.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("positive", "several")

    temperature: float = 1.0
    label_temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)
        above_zero("label_temperature", self.label_temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        log_probs = masked_logits(scores, mask, self.temperature).log_softmax(dim=-1)
        target = masked_logits(labels, mask, self.label_temperature).softmax(dim=-1).to(log_probs.dtype)
        return -(target * log_probs).sum(dim=-1), mask.sum(dim=-1) > 1
