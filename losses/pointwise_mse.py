"""Pointwise MSE: distillation of a teacher's raw scores, each document alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import at_least_float32


@dataclass(frozen=True)
class PointwiseMSE(ListLoss):
    """1/n sum_i (s_i - t_i)^2, t the teacher's raw scores (logits)  (Hinton et al. 2015, section 2.1).

    The mean is over a list's documents, then over lists; torch's `mse_loss` over all documents of a batch is the same
    if all lists have the same length. Labels are not read. Padding and documents without a finite score of the teacher
    are left out; a list is valid if a document remains.

    The teacher's scores must not have passed a sigmoid: near 0 and 1 they hardly differ. A teacher in the run
    (model@teacher) gives raw scores.

    With `standardize` the error is divided by the standard deviation of the teacher's scores: the loss then has the
    same size for every teacher. A fresh score head also starts at their mean and deviation instead of at 0 and 1, in
    the model itself, so that its scores, and those of its export, have the teacher's scale. In a mixture, the scores of
    each data set are brought to the mean and deviation of all of them together.

    Use: a teacher's raw scores, for a reranker that should give the same scores.
    Cost: n.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("teacher_scores",)
    shift_invariant: ClassVar[bool] = False  # the teacher's scores are absolute
    reads_raw_scores: ClassVar[bool] = True

    standardize: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("teacher_scores", "teacher_deviation") if self.standardize else ("teacher_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, mask, teacher_scores: [..., n], teacher_deviation: scalar -> values [...], valid [...] bool."""
        teacher_scores = at_least_float32(inputs["teacher_scores"])
        scored = mask & teacher_scores.isfinite()
        errors = at_least_float32(scores).masked_fill(~scored, 0.0) - teacher_scores.masked_fill(~scored, 0.0)
        if self.standardize:
            errors = errors / inputs["teacher_deviation"]
        return (errors**2).sum(dim=-1) / scored.sum(dim=-1).clamp(min=1), scored.any(dim=-1)
