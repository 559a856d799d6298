"""KL distillation: a teacher's distribution over the documents of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_positive
from losses.math.masking import masked_logits


@dataclass(frozen=True)
class KLDistillation(ListLoss):
    """T^2 KL(softmax(t / T_teacher) || softmax(s / T)), t the teacher's scores  (Hinton et al. 2015).

    T is `temperature`. T_teacher is `teacher_temperature`, or T if that is None. The factor is the square of the
    student's temperature alone, also if the two differ: so the gradient for s is T (softmax(s / T) - softmax(t /
    T_teacher)), whose size at large T does not depend on T. The same as sentence-transformers `DistillKLDivLoss`.
    Labels are not read. Padding and documents without a teacher's score (NaN) are left out; a list is valid if two
    documents remain.

    Use: a teacher's scores on any scale; no labels needed.
    Cost: n.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("teacher_scores", "several")

    temperature: float = 1.0
    teacher_temperature: float | None = None

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        if self.teacher_temperature is not None:
            check_positive("teacher_temperature", self.teacher_temperature)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("teacher_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, mask, teacher_scores: [..., n] -> values [...], valid [...] bool."""
        teacher_scores = inputs["teacher_scores"]
        scored = mask & ~teacher_scores.isnan()
        teacher_temperature = self.temperature if self.teacher_temperature is None else self.teacher_temperature
        teacher = masked_logits(teacher_scores, scored, teacher_temperature).log_softmax(dim=-1)
        student = masked_logits(scores, scored, self.temperature).log_softmax(dim=-1)
        divergence = (teacher.exp() * (teacher - student)).sum(dim=-1)
        return self.temperature**2 * divergence, scored.sum(dim=-1) > 1
