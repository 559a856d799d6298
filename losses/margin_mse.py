"""MarginMSE: distillation of a teacher's score margins between documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.pairs import differences, label_pairs, mean_over_pairs


@dataclass(frozen=True)
class MarginMSE(ListLoss):
    """mean_{y_i > y_j} ((s_i - s_j) - (t_i - t_j))^2, t the teacher's scores  (Hofstätter et al. 2020).

    Each document is compared with all less relevant ones; sentence-transformers `MarginMSELoss` has one positive. The
    scores of student and teacher must have the same scale; a bi-encoder's score is its similarity times its `scale`.
    Padding and documents without a teacher's score (NaN) are left out; a list is valid if two of the others have
    different labels. Memory n^2 per list.

    Use: a teacher's scores on the student's scale, such as a cross-encoder's for a bi-encoder.
    Cost: n^2.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("teacher_scores", "comparison")

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("teacher_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask, teacher_scores: [..., n] -> values [...], valid [...] bool."""
        teacher_scores = inputs["teacher_scores"]
        scored = mask & ~teacher_scores.isnan()
        errors = differences(scores, scored) - differences(teacher_scores, scored)
        return mean_over_pairs(errors**2, label_pairs(labels, scored))
