"""NeuralNDCG: nDCG of the gains in the order of a relaxed sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_at_least, check_positive
from losses.math.neural_sort import neural_sort, sinkhorn
from losses.math.pairs import label_pairs
from losses.rewards import NDCG


@dataclass(frozen=True)
class NeuralNDCG(ListLoss):
    """-sum_{r<=k} (P gain)_r / log2(1 + r) / IDCG@k, P the Sinkhorn-scaled NeuralSort of the scores.

    Pobrotyn and Białobrzeski 2021, the deterministic variant. As temperature -> 0 it becomes -NDCG@k. The number of
    iterations is fixed, so that no list depends on the others; allRank stops when the whole batch has converged. After
    50 iterations (allRank's maximum), the columns of a list of 64 sum to 1 within 6e-3. With 0 iterations, this is
    PiRank without straight-through gradients. A list is valid if two documents have different labels. Memory
    n^2 num_sinkhorn_iterations per list.

    Use: a smooth nDCG at a cutoff, after a warm start; the most expensive loss of this family.
    Cost: n^2 times the Sinkhorn iterations.
    Source: Pobrotyn and Białobrzeski 2021, arXiv 2102.07831; allRank, the deterministic variant.
    """

    saturates: ClassVar[bool] = True  # the softmax of a wide margin is flat

    temperature: float = 1.0
    k: int | None = None
    gain: str = "exponential"
    num_sinkhorn_iterations: int = 50

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_at_least("num_sinkhorn_iterations", self.num_sinkhorn_iterations, 0)
        NDCG(self.k, self.gain)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        log_rows = neural_sort(scores, mask, temperature=self.temperature, k=mask.shape[-1])
        permutation = sinkhorn(log_rows, mask, num_iterations=self.num_sinkhorn_iterations)
        metric = NDCG(self.k, self.gain)
        gains = metric.gains(labels, mask).to(permutation.dtype)
        sorted_gains = (permutation @ gains.unsqueeze(-1)).squeeze(-1)
        return -(sorted_gains * metric.discounts(mask)).sum(dim=-1), label_pairs(labels, mask).any(dim=(-2, -1))
