"""ListMLE: the likelihood of the ranking by labels under Plackett-Luce, with equal or position-aware weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_at_least, check_one_of, check_positive
from losses.math.masking import at_least_float32
from losses.math.pairs import label_pairs
from losses.math.plackett_luce import gather_ranked, position_distributions

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
    """Return -sum_j w_j log P(y_j | y_<j), the mean over m rankings by descending label with random orders of ties.

    P(y_j | y_<j) = exp(s_{y_j} / T) / sum_{x >= j} exp(s_{y_x} / T)  (Xia et al. 2008).

    Args:
        scores, labels, mask (bool): [..., n].
        tie_breaks: [..., m, n], m orders of the documents of equal label: the smallest value first (`draw_tie_breaks`).
        temperature: scores are divided by it.
        position_weights: "uniform", w_j = 1; "exponential", w_j = 2^(n - j) - 1 over their sum, n the number of the
            list's documents (p-ListMLE, Lan et al. 2014; normalised as in sentence-transformers).

    Returns:
        values [...], and valid [...] bool: two documents of the list have different labels.
    """
    by_label = at_least_float32(labels).masked_fill(~mask, -torch.inf)
    shuffled = tie_breaks.argsort(dim=-1)
    order = gather_ranked(by_label, shuffled).argsort(dim=-1, descending=True, stable=True)
    rankings = shuffled.gather(-1, order)
    log_probs = position_distributions(scores, mask, rankings, temperature=temperature).log_probs
    if position_weights == "exponential":
        log_probs = log_probs * _exponential_weights(mask, log_probs.dtype)
    valid = label_pairs(labels, mask).any(dim=-1).any(dim=-1)
    return -log_probs.sum(dim=-1).mean(dim=-1), valid


def _exponential_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [..., 1, n]: 2^(n - j) - 1, normalised to sum 1, and divided by 2^n first so that nothing overflows."""
    num_documents = mask.sum(dim=-1, keepdim=True).unsqueeze(-1)
    positions = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    weights = torch.exp2(-positions.to(dtype)) - torch.exp2(-num_documents.to(dtype))
    weights = weights.clamp(min=0)  # positions beyond the list's documents
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)


def draw_tie_breaks(document_hashes: Tensor, *, seed: int, step: int, num_draws: int) -> Tensor:
    """Return random numbers [..., m, n] int64 that depend only on (seed, step, draw, document hash).

    So a resumed run and every rank draw the same numbers, and the order of the documents, padding and the other lists
    change nothing. Documents of equal text keep their order in the list: their scores are equal too.

    document_hashes: [..., n] int64; num_draws: m.
    """
    draws = torch.arange(num_draws, device=document_hashes.device).unsqueeze(-1)
    stream = _splitmix64(_splitmix64(_splitmix64(torch.full_like(draws, seed)) + step) + draws)
    return _splitmix64(document_hashes.unsqueeze(-2) ^ stream)


def _splitmix64(values: Tensor) -> Tensor:
    """Apply the output function of SplitMix64 to int64 values, whose arithmetic wraps (Steele et al. 2014, fig. 17)."""

    def shift_right(values: Tensor, bits: int) -> Tensor:
        return (values >> bits) & ((1 << (64 - bits)) - 1)  # `>>` alone would repeat the sign

    values = values + (0x9E3779B97F4A7C15 - 2**64)
    values = (values ^ shift_right(values, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    values = (values ^ shift_right(values, 27)) * (0x94D049BB133111EB - 2**64)
    return values ^ shift_right(values, 31)


@dataclass(frozen=True)
class ListMLE(ListLoss):
    """`list_mle` as a training loss: ties are ordered at random at every step, and `num_draws` orders are averaged.

    For two documents it equals RankNet. With few grades, most of a ranking is ties: each draw then teaches an order
    that the labels do not have, and on average this pulls the scores of equal labels together.

    Cost: num_draws n log n.
    """

    temperature: float = 1.0
    num_draws: int = 1
    position_weights: str = "uniform"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_at_least("num_draws", self.num_draws, 1)
        check_one_of("position_weights", self.position_weights, POSITION_WEIGHTS)

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
