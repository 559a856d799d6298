"""Preferences over whole lists: listwise losses of h = beta (s - r), r the scores of the frozen reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from losses.contracts import ListLoss
from losses.lambda_loss import lambda_loss
from losses.list_mle import draw_tie_breaks, list_mle
from losses.math.checks import check_at_least, check_one_of, check_positive
from losses.preference import log_ratios


@dataclass(frozen=True)
class PLDPO(ListLoss):
    """-log P(ranking by labels) under Plackett-Luce with the logits h: ListMLE of h.

    This is DPO for rankings (Rafailov et al., arXiv 2305.18290, appendix A.3); for two documents it equals DPO. Ties of
    the labels are ordered at random at every step, and `num_draws` orders are averaged. A list is valid if two
    documents have different labels.

    Use: DPO for whole graded lists.
    Cost: num_draws n log n, and the reference's scores.
    Source: Rafailov et al. 2023, arXiv 2305.18290, appendix A.3.
    """

    beta: float = 0.1
    num_draws: int = 1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_at_least("num_draws", self.num_draws, 1)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("reference_scores", "document_hashes", "seed", "step")

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask, reference_scores, document_hashes [..., n]; seed, step (int) -> values, valid [...]."""
        rewards = self.beta * log_ratios(scores, inputs["reference_scores"])
        ties = draw_tie_breaks(
            inputs["document_hashes"], seed=inputs["seed"], step=inputs["step"], num_draws=self.num_draws
        )
        return list_mle(rewards, labels, mask, tie_breaks=ties)


@dataclass(frozen=True)
class LiPOLambda(ListLoss):
    """sum_{y_i > y_j} abs(G_i - G_j) abs(D(r_i) - D(r_j)) softplus(-(h_i - h_j)): LambdaRank of h.

    LiPO-lambda (Liu et al., arXiv 2402.01878). r are the ranks by h, constants; D(r) = 1 / log2(1 + r). The gains G are
    divided by the list's ideal DCG, which the paper does not do: so every list has the same weight, whatever its
    grades. A list is valid if two documents have different labels.

    Use: graded preferences if the top of the list matters most, starting from a trained model.
    Cost: n^2, and the reference's scores.
    Source: Liu et al. 2024, arXiv 2402.01878.
    """

    beta: float = 0.1
    k: int | None = None
    gain: str = "exponential"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        if self.k is not None:
            check_at_least("k", self.k, 1)
        check_one_of("gain", self.gain, ("linear", "exponential"))

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("reference_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask and reference_scores: [..., n] -> values [...], valid [...] bool."""
        rewards = self.beta * log_ratios(scores, inputs["reference_scores"])
        return lambda_loss(rewards, labels, mask, scheme="lambda_rank", k=self.k, gain=self.gain)
