"""Pointwise binary cross-entropy: each document alone, relevant or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_pos_weight, check_positive
from losses.math.masking import at_least_float32, positive_weights


@dataclass(frozen=True)
class BinaryCrossEntropy(ListLoss):
    """-1/n sum_i [w y_i logsigmoid(s_i) + (1 - y_i) logsigmoid(-s_i)], y_i = 1 if the label is above 0, else 0.

    With `soft_labels` y_i is the label itself divided by `largest_label`: from 0 to 1, or the data are refused. With
    `teacher_labels` y_i is sigmoid(t_i / `teacher_temperature`), t the raw scores of a teacher; labels are not read,
    and documents without a teacher's score (NaN) are left out. The minimum is then the entropy of y, not 0.

    The mean is over a list's n documents, then over lists. torch's `binary_cross_entropy_with_logits` over all
    documents of a batch is the same if all lists have the same length; if not, it gives long lists more weight.

    `pos_weight` is w: a number, None for 1, or "auto", the list's number of negatives per positive, so that both kinds
    have the same total weight (1 for a list that has only one kind). "auto" is computed per list and not per batch: so
    other lists do not change a list's gradient. The probabilities are then those of a list of which half is relevant;
    None trains those of the data. Every list with a document is valid.

    Use: scores that should be probabilities, or documents judged one by one.
    Cost: n.
    Source: torch's `binary_cross_entropy_with_logits`, by list.
    """

    gives_probabilities: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = False  # scores are log-odds: a constant added to them changes the loss

    pos_weight: float | Literal["auto"] | None = "auto"
    soft_labels: bool = False
    largest_label: float = 1.0
    teacher_labels: bool = False
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_pos_weight(self.pos_weight)
        check_positive("largest_label", self.largest_label)
        check_positive("teacher_temperature", self.teacher_temperature)
        if self.soft_labels and self.teacher_labels:
            raise ValueError("soft_labels=true and teacher_labels=true: the targets are either labels or a teacher's")
        option = "soft_labels" if self.soft_labels else "teacher_labels"
        if getattr(self, option) and self.pos_weight == "auto":
            raise ValueError(f"pos_weight=auto counts relevant documents; with {option}=true give a number or null")
        if self.largest_label != 1 and not self.soft_labels:
            raise ValueError(f"largest_label={self.largest_label:g} divides soft labels: set soft_labels=true too")

    @property
    def data_requirements(self) -> tuple[str, ...]:
        if self.teacher_labels:
            return ("teacher_scores",)
        soft = "unit_labels" if self.largest_label == 1 else "levels"
        return (soft,) if self.soft_labels else ("labels",)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("teacher_scores",) if self.teacher_labels else ()

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        if self.teacher_labels:
            mask = mask & ~inputs["teacher_scores"].isnan()
        scores = at_least_float32(scores).masked_fill(~mask, 0.0)
        targets = self._targets(labels, inputs).to(scores.dtype).masked_fill(~mask, 0.0)
        weight = positive_weights(labels > 0, mask, self.pos_weight)
        losses = -weight * targets * F.logsigmoid(scores) - (1 - targets) * F.logsigmoid(-scores)
        losses = losses.masked_fill(~mask, 0.0)
        return losses.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1), mask.any(dim=-1)

    def _targets(self, labels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The targets from 0 to 1, [..., n]."""
        if self.teacher_labels:
            return (at_least_float32(inputs["teacher_scores"]) / self.teacher_temperature).sigmoid()
        return labels / self.largest_label if self.soft_labels else labels > 0
