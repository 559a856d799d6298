"""The LambdaLoss framework: RankNet's pairs, weighted by their effect on nDCG at the current ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_at_least, check_one_of, check_positive
from losses.math.masking import at_least_float32
from losses.math.pairs import differences, label_pairs, mean_over_pairs, real_pairs, sum_over_pairs
from losses.rewards import NDCG

SCHEMES = ("lambda_rank", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2pp")
DEFAULT_MU = 10.0


def lambda_loss(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    scheme: str,
    sigma: float = 1.0,
    mu: float | None = None,
    k: int | None = None,
    gain: str = "exponential",
    reduction: str = "sum",
) -> tuple[Tensor, Tensor]:
    """Return the sum over pairs of w_ij softplus(-sigma (s_i - s_j))  (Wang et al. 2018, the LambdaLoss framework).

    r are the ranks by the current scores (constants), D(r) = 1 / log2(1 + r), G = gain / ideal DCG of the list and
    d = |r_i - r_j|:

    | scheme | pairs | w_ij |
    |---|---|---|
    | lambda_rank | y_i > y_j | abs(D(r_i) - D(r_j)) abs(G_i - G_j) |
    | ndcg_loss1 | all, i = j too (a constant) | G_i D(r_i) |
    | ndcg_loss2 | y_i > y_j | (D(d) - D(d + 1)) abs(G_i - G_j) |
    | ndcg_loss2pp | y_i > y_j | mu times that of ndcg_loss2, plus that of lambda_rank |

    Args:
        scores, labels, mask (bool): [..., n].
        scheme: one of `SCHEMES`.
        sigma: steepness of the pairs' sigmoid.
        mu: the weight of ndcg_loss2 in ndcg_loss2pp; None: 10.
        k: the cutoff of nDCG@k. The ideal DCG has k documents, and a pair counts if at least one of its documents is in
            the current top k: so a relevant document further down is compared with all of those. None: the whole list.
        gain: "exponential" (2^label - 1) or "linear" (the label).
        reduction: "sum" over the list's pairs (as in the paper) or their "mean".

    Returns:
        values [...], natural logarithm, and valid [...] bool: two documents of the list have different labels.
    """
    compared = label_pairs(labels, mask)
    ranks = current_ranks(scores, labels, mask)
    pairs = real_pairs(mask) if scheme == "ndcg_loss1" else compared
    if k is not None:
        in_top_k = ranks <= k
        pairs = pairs & (in_top_k.unsqueeze(-1) | in_top_k.unsqueeze(-2))
    losses = -F.logsigmoid(sigma * differences(scores, mask))
    gains = NDCG(k=k, gain=gain).gains(labels, mask).to(losses.dtype)
    weights = _pair_weights(scheme, ranks, gains, DEFAULT_MU if mu is None else mu)
    reduce = mean_over_pairs if reduction == "mean" else sum_over_pairs
    return reduce(weights * losses, pairs)[0], compared.any(dim=-1).any(dim=-1)


def current_ranks(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Return [..., n], the ranks from 1 by descending score, padding last. scores, labels, mask: [..., n].

    Among equal scores the less relevant document comes first. So a tie counts as misordered, whatever the order of the
    documents in the batch, and a model that gives all documents the same score still learns.
    """
    scores = at_least_float32(scores.detach()).masked_fill(~mask, -torch.inf)
    by_label = at_least_float32(labels).masked_fill(~mask, torch.inf).argsort(dim=-1, stable=True)
    by_score = scores.gather(-1, by_label).argsort(dim=-1, descending=True, stable=True)
    return by_label.gather(-1, by_score).argsort(dim=-1) + 1


def _pair_weights(scheme: str, ranks: Tensor, gains: Tensor, mu: float) -> Tensor:
    """Return the weights [..., n, n] (or [..., n, 1]) of pairs, from ranks and normalised gains [..., n]."""

    def discount(ranks: Tensor) -> Tensor:
        return 1 / torch.log2(1 + ranks.to(gains.dtype))

    if scheme == "ndcg_loss1":
        return (gains * discount(ranks)).unsqueeze(-1)
    swap = _absolute_differences(discount(ranks))
    distance = _absolute_differences(ranks).clamp(min=1)  # 0 only between a document and itself, which is no pair
    delta = discount(distance) - discount(distance + 1)
    factor = {"lambda_rank": swap, "ndcg_loss2": delta, "ndcg_loss2pp": mu * delta + swap}[scheme]
    return factor * _absolute_differences(gains)


def _absolute_differences(values: Tensor) -> Tensor:
    return (values.unsqueeze(-1) - values.unsqueeze(-2)).abs()


@dataclass(frozen=True)
class LambdaLoss(ListLoss):
    """`lambda_loss` as a training loss: LambdaRank, NDCG-Loss1, NDCG-Loss2 and NDCG-Loss2++.

    Cost: n^2.
    Source: Wang et al. 2018, the LambdaLoss framework; sentence-transformers `LambdaLoss`.
    """

    scheme: str = "ndcg_loss2pp"
    sigma: float = 1.0
    mu: float | None = None
    k: int | None = None
    gain: str = "exponential"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        check_one_of("scheme", self.scheme, SCHEMES)
        check_positive("sigma", self.sigma)
        if self.mu is not None:
            check_at_least("mu", self.mu, 0)
            if self.scheme != "ndcg_loss2pp":
                raise ValueError(f"mu={self.mu} belongs to scheme='ndcg_loss2pp', not {self.scheme!r}: leave it out")
        if self.k is not None:
            check_at_least("k", self.k, 1)
        check_one_of("gain", self.gain, ("linear", "exponential"))
        check_one_of("reduction", self.reduction, ("sum", "mean"))

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        return lambda_loss(
            scores,
            labels,
            mask,
            scheme=self.scheme,
            sigma=self.sigma,
            mu=self.mu,
            k=self.k,
            gain=self.gain,
            reduction=self.reduction,
        )
