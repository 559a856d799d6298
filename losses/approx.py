"""ApproxNDCG and ApproxMRR: metrics in which sigmoids replace the comparisons that make up a rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_one_of, check_positive
from losses.math.pairs import differences, label_pairs
from losses.rewards import NDCG


def approximate_ranks(scores: Tensor, mask: Tensor, *, temperature: float) -> Tensor:
    """Return rank_i = 1 + sum_{j != i} sigmoid((s_j - s_i) / temperature), from Qin, Liu and Li 2010.

    Their alpha is 1 / temperature. As temperature -> 0 the ranks become 1, 2, ..., and documents of equal score share
    the mean of their ranks. Memory n^2 per list.

    scores, mask (bool): [..., n] -> [..., n]. Padding is not counted in the ranks.
    """
    above = (-differences(scores, mask) / temperature).sigmoid().masked_fill(~mask.unsqueeze(-2), 0.0)
    return 0.5 + above.sum(dim=-1)  # a document's comparison with itself is the other half


@dataclass(frozen=True)
class ApproxNDCG(ListLoss):
    """-NDCG of the approximate ranks: -sum_i gain(y_i) / log2(1 + rank_i) / IDCG  (Qin et al. 2010; rax, with T = 1).

    There is no cutoff: it would need another approximation, of which documents are above it (LambdaRank, NeuralNDCG and
    PiRank have a cutoff). A list is valid if two documents have different labels. rax also counts lists of one label,
    whose gradient pulls the scores apart although every ranking is ideal. Memory n^2 per list.

    Use: a smooth version of nDCG itself, after a warm start: a pair with a wide margin has no gradient.
    Cost: n^2.
    """

    saturates: ClassVar[bool] = True  # the sigmoid of a wide margin is flat

    temperature: float = 1.0
    gain: str = "exponential"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_one_of("gain", self.gain, ("linear", "exponential"))

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        ranks = approximate_ranks(scores, mask, temperature=self.temperature)
        gains = NDCG(k=None, gain=self.gain).gains(labels, mask)
        return -(gains / torch.log2(1 + ranks)).sum(dim=-1), label_pairs(labels, mask).any(dim=(-2, -1))


@dataclass(frozen=True)
class ApproxMRR(ListLoss):
    """-max_{y_i > 0} 1 / rank_i, for the approximate rank of the first relevant document  (Qin et al. 2010; rax).

    Relevance is binary (rax: label >= 1). As in the metric, only the first relevant document has a gradient; TF-Ranking
    sums over all relevant ones. A list is valid if it has both relevant and other documents. Memory n^2 per list.

    Use: a smooth reciprocal rank, if only the first relevant document matters; after a warm start.
    Cost: n^2.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("relevance",)
    saturates: ClassVar[bool] = True  # the sigmoid of a wide margin is flat

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        ranks = approximate_ranks(scores, mask, temperature=self.temperature)
        relevant = (labels > 0) & mask
        reciprocal = (1 / ranks).masked_fill(~relevant, 0.0)
        return -reciprocal.amax(dim=-1), label_pairs(relevant, mask).any(dim=(-2, -1))
