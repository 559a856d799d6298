"""RankNet: the logistic loss of every pair of documents with different labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_positive
from losses.math.pairs import differences, label_pairs, mean_over_pairs


@dataclass(frozen=True)
class RankNet(ListLoss):
    """The mean over the list's pairs y_i > y_j of softplus(-sigma (s_i - s_j))  (Burges et al. 2005).

    The logarithm is natural. The mean is over the pairs of each list; sentence-transformers takes it over the pairs of
    the whole batch. A list is valid if two documents have different labels.

    Use: graded labels as pairs, all with the same weight wherever they are in the ranking.
    Cost: n^2.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        losses = -F.logsigmoid(self.sigma * differences(scores, mask))  # exact also where softplus becomes linear
        return mean_over_pairs(losses, label_pairs(labels, mask))
