"""ApproxNDCG and ApproxMRR: metrics of record with sigmoids for the comparisons that make a rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import above_zero, one_of
from losses.math.pairs import differences, label_pairs
from losses.rewards import NDCG


def approximate_ranks(scores: Tensor, mask: Tensor, *, temperature: float) -> Tensor:
    """rank_i = 1 + sum_{j != i} sigmoid((s_j - s_i) / temperature)  (Qin, Liu and Li 2010, alpha = 1 / temperature).

    The ranks 1, 2, ... as temperature -> 0; documents of equal score share the mean of theirs. Memory n^2 a list.

    scores, mask (bool): [..., n] -> [..., n], only documents that are not padding being counted.
    """
    above = (-differences(scores, mask) / temperature).sigmoid().masked_fill(~mask.unsqueeze(-2), 0.0)
    return 0.5 + above.sum(dim=-1)  # a document's comparison with itself is the other half


@dataclass(frozen=True)
class ApproxNDCG(ListLoss):
    """-NDCG of the approximate ranks: -sum_i gain(y_i) / log2(1 + rank_i) / IDCG  (Qin et al. 2010; rax, with T = 1).

    Over the whole list: a cutoff would need another approximation, of which documents are above it (LambdaRank,
    NeuralNDCG and PiRank have one). A list is valid where two documents differ in label; rax counts lists of one label
    too, whose gradient pulls the scores apart although every ranking is ideal. Memory n^2 a list.

    Use: a smooth nDCG itself, after a warm start: a pair far apart has no gradient.
    Cost: n^2.
    """

    saturates: ClassVar[bool] = True  # the sigmoid of a wide margin is flat

    temperature: float = 1.0
    gain: str = "exponential"

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)
        one_of("gain", self.gain, ("linear", "exponential"))

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        ranks = approximate_ranks(scores, mask, temperature=self.temperature)
        gains = NDCG(k=None, gain=self.gain).gains(labels, mask)
        return -(gains / torch.log2(1 + ranks)).sum(dim=-1), label_pairs(labels, mask).any(dim=(-2, -1))


@dataclass(frozen=True)
class ApproxMRR(ListLoss):
    """-max_{y_i > 0} 1 / rank_i, for the approximate rank of the first relevant document  (Qin et al. 2010; rax).

    Relevance is binary (rax: label >= 1), and of several relevant documents the first alone learns, as in the metric;
    TF-Ranking sums over all of them. A list is valid with both relevant and other documents. Memory n^2 a list.

    Use: a smooth reciprocal rank, where only the first relevant document matters; after a warm start.
    Cost: n^2.
    """

    saturates: ClassVar[bool] = True  # the sigmoid of a wide margin is flat

    temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        ranks = approximate_ranks(scores, mask, temperature=self.temperature)
        relevant = (labels > 0) & mask
        reciprocal = (1 / ranks).masked_fill(~relevant, 0.0)
        return -reciprocal.amax(dim=-1), label_pairs(relevant, mask).any(dim=(-2, -1))
