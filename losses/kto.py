"""KTO: preferences without pairs, from single documents that are relevant or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.answers import two_token_kl, two_token_log_prob
from losses.math.checks import check_at_least, check_positive
from losses.math.masking import at_least_float32


@dataclass(frozen=True)
class KTO(ListLoss):
    """lambda_D sigmoid(-beta (u - z0)) of relevant documents, lambda_U sigmoid(-beta (z0 - u)) of the others.

    Ethayarajh et al., arXiv 2402.01306, eq. 7. u = log P("yes") - log P_ref("yes") with P = sigmoid(s). z0 is the mean
    KL(P || P_ref) over the documents of the whole global step, a constant for the gradient. The paper estimates z0 from
    mismatched pairs because it cannot sum over all completions. Over two tokens it is exact, and never negative.

    A list's loss is the mean over its documents; a label above 0 means relevant. Every list with a document is valid.

    Use: likes and dislikes without pairs, for scores that are log-odds of "yes".
    Cost: n, and the reference's scores.
    Source: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("labels",)
    shift_invariant: ClassVar[bool] = False  # P("yes") is absolute
    depends_on_other_lists: ClassVar[bool] = True  # through z0
    saturates: ClassVar[bool] = True  # log P("yes") of an irrelevant document is flat if P("yes") is near 1
    differentiable: ClassVar[bool] = False  # z0 changes the value and has no gradient

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_at_least("desirable_weight", self.desirable_weight, 0.0)
        check_at_least("undesirable_weight", self.undesirable_weight, 0.0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("reference_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores (log-odds of "yes"), labels, mask, reference_scores: [..., n] -> values [...], valid [...] bool."""
        scores = at_least_float32(scores).masked_fill(~mask, 0.0)
        reference = at_least_float32(inputs["reference_scores"].detach()).masked_fill(~mask, 0.0)
        yes = torch.ones_like(mask)
        log_ratio = two_token_log_prob(scores, yes) - two_token_log_prob(reference, yes)
        divergence = two_token_kl(scores.detach(), reference)  # 0 at padding
        baseline = (divergence.sum() / mask.sum().clamp(min=1)).clamp(min=0.0)  # only rounding makes it negative
        desirable = self.desirable_weight * (self.beta * (baseline - log_ratio)).sigmoid()
        undesirable = self.undesirable_weight * (self.beta * (log_ratio - baseline)).sigmoid()
        values = desirable.where(labels > 0, undesirable).masked_fill(~mask, 0.0)
        return values.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1), mask.any(dim=-1)
