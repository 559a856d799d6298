"""ListMLE: the likelihood of the ranking by labels under Plackett-Luce, every position alike or the first ones more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import above_zero, at_least, at_least_float32, one_of
from losses.math.pairs import label_pairs
from losses.math.plackett_luce import place, position_distributions

POSITION_WEIGHTS = ("uniform", "exponential")


def list_mle(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    tie_breaks: Tensor,
    temperature: float = 1.0,
    position_weights: str = "uniform",
) -> tuple[Tensor, Tensor]:
    """-sum_j w_j log P(y_j | y_<j), the mean over rankings y by descending label that differ in the order of ties.

    P(y_j | y_<j) = exp(s_{y_j} / T) / sum_{x >= j} exp(s_{y_x} / T)  (Xia et al. 2008).

    Args:
        scores, labels, mask (bool): [..., n].
        tie_breaks: [..., m, n], m orders of documents of one label: the smallest value first (`draw_tie_breaks`).
        temperature: scores are divided by it.
        position_weights: "uniform", w_j = 1; "exponential", w_j = 2^(n - j) - 1 over their sum, n the number of the
            list's documents (p-ListMLE, Lan et al. 2014; normalised as in sentence-transformers).

    Returns:
        values [...], and valid [...] bool: two documents of the list have different labels.
    """
    by_label = at_least_float32(labels).masked_fill(~mask, -torch.inf)
    shuffled = tie_breaks.argsort(dim=-1)
    order = place(by_label, shuffled).argsort(dim=-1, descending=True, stable=True)
    rankings = shuffled.gather(-1, order)
    log_probs = position_distributions(scores, mask, rankings, temperature=temperature).log_probs
    if position_weights == "exponential":
        log_probs = log_probs * _exponential_weights(mask, log_probs)
    valid = label_pairs(labels, mask).any(dim=-1).any(dim=-1)
    return -log_probs.sum(dim=-1).mean(dim=-1), valid


def _exponential_weights(mask: Tensor, like: Tensor) -> Tensor:
    """[..., 1, n]: 2^(n - j) - 1 over their sum, all divided by 2^n: no power overflows, however long the list."""
    number = mask.sum(dim=-1, keepdim=True).unsqueeze(-1)
    positions = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    weights = torch.exp2(-positions.to(like.dtype)) - torch.exp2(-number.to(like.dtype))
    weights = weights.clamp(min=0)  # positions beyond the list's documents
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(like.dtype).tiny)


def draw_tie_breaks(document_hashes: Tensor, *, seed: int, step: int, num_draws: int) -> Tensor:
    """Random numbers [..., m, n] int64 that are functions of (seed, step, draw, document key [..., n]) alone.

    So a resumed run and every rank draw the same, and the order of the documents, padding and the other lists change
    nothing. Documents of equal text keep the order in which they come: their scores are equal too.
    """
    draws = torch.arange(num_draws, device=document_hashes.device).unsqueeze(-1)
    stream = _mix(_mix(_mix(torch.full_like(draws, seed)) + step) + draws)
    return _mix(document_hashes.unsqueeze(-2) ^ stream)


def _mix(values: Tensor) -> Tensor:
    """The SplitMix64 generator's output function on int64, whose arithmetic wraps (Steele et al. 2014, fig. 17)."""

    def shifted(values: Tensor, bits: int) -> Tensor:
        return (values >> bits) & ((1 << (64 - bits)) - 1)  # `>>` alone would repeat the sign

    values = values + (0x9E3779B97F4A7C15 - 2**64)
    values = (values ^ shifted(values, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    values = (values ^ shifted(values, 27)) * (0x94D049BB133111EB - 2**64)
    return values ^ shifted(values, 31)


@dataclass(frozen=True)
class ListMLE(ListLoss):
    """`list_mle`, with ties ordered at random, anew at every step; `num_draws` orders are averaged.

    For two documents it is RankNet. With few grades most of a ranking is ties: each draw then asks for an order that
    the labels do not have, which in the mean draws their scores together.

    Cost: num_draws n log n.
    """

    temperature: float = 1.0
    num_draws: int = 1
    position_weights: str = "uniform"

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)
        at_least("num_draws", self.num_draws, 1)
        one_of("position_weights", self.position_weights, POSITION_WEIGHTS)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("document_hashes", "seed", "step")

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels, mask, document_hashes [..., n]; seed, step (int) -> values [...], valid [...] bool."""
        ties = draw_tie_breaks(
            inputs["document_hashes"], seed=inputs["seed"], step=inputs["step"], num_draws=self.num_draws
        )
        return list_mle(
            scores,
            labels,
            mask,
            tie_breaks=ties,
            temperature=self.temperature,
            position_weights=self.position_weights,
        )
