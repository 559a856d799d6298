"""PiRank: nDCG of the hard ranking, with the gradient of a relaxed sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_positive
from losses.math.neural_sort import hard_sort, neural_sort
from losses.math.pairs import label_pairs
from losses.rewards import NDCG


@dataclass(frozen=True)
class PiRank(ListLoss):
    """-sum_{r<=k} (P gain)_r / log2(1 + r) / IDCG@k, P the top k rows of the sort: hard forward, NeuralSort backward.

    Swezey et al. 2021, depth 1, straight-through (`ste` in their code). The value is exactly -NDCG@k, the mean over the
    orders of ties; the gradient is that of the relaxation at `temperature`. NDCG is computed per list, while their code
    divides sums over the batch; the value is theirs minus 1. `NeuralNDCG` with num_sinkhorn_iterations 0 uses the
    relaxation in forward and backward. A list is valid if two documents have different labels. Memory n^2 per list (the
    distances).

    Use: nDCG at a cutoff as the loss value, with the relaxation's gradient.
    Cost: n^2.
    Source: Swezey et al. 2021, arXiv 2012.06731.
    """

    differentiable: ClassVar[bool] = False  # straight-through: the value is a step function

    temperature: float = 5.0
    k: int | None = 10
    gain: str = "exponential"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        NDCG(self.k, self.gain)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        k = min(self.k or mask.shape[-1], mask.shape[-1])
        relaxed = neural_sort(scores, mask, temperature=self.temperature, k=k).exp()
        permutation = hard_sort(scores, mask, k=k) + (relaxed - relaxed.detach())
        metric = NDCG(self.k, self.gain)
        gains = metric.gains(labels, mask).to(permutation.dtype)
        sorted_gains = (permutation @ gains.unsqueeze(-1)).squeeze(-1)
        return -(sorted_gains * metric.discounts(sorted_gains)).sum(dim=-1), label_pairs(labels, mask).any(dim=(-2, -1))
