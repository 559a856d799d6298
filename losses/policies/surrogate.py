"""The policy-gradient surrogates of GRPO and its relatives, per position, and how they are summed up (TRL's names).

References: PPO's clipped ratio (arXiv 1707.06347), GRPO (2402.03300), Dr. GRPO (2503.20783), DAPO (2503.14476),
GSPO (2507.18071), CISPO (MiniMax-M1, 2506.13585), two-sided clipping with `delta` (INTELLECT-2, 2505.07291).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from losses.math.kl import LOG_RATIO_LIMIT

IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence", "sequence_product")
LOSS_TYPES = ("sum", "grpo", "bnpo", "dapo", "dr_grpo", "cispo")


class Surrogate(NamedTuple):
    """loss: to minimise; ratio: rho, differentiable; clipped: bool, where the clipped branch stops the gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def importance_ratio(log_ratio: Tensor, position_mask: Tensor, level: str) -> Tensor:
    """rho from log P - log P_old of each position, at most e^20 (where float32 would overflow there is no gradient).

    Args:
        log_ratio: [..., G, k], 0 at masked positions.
        position_mask: [..., 1 or G, k] bool.
        level: "token", each position its own; "sequence", exp of their mean (GSPO's geometric mean);
            "sequence_product", exp of their sum (the ratio of the rankings' probabilities).

    Returns:
        [..., G, k] for "token", else [..., G, 1].
    """
    if level != "token":
        log_ratio = log_ratio.sum(dim=-1, keepdim=True)
    if level == "sequence":
        log_ratio = log_ratio / position_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return log_ratio.clamp(max=LOG_RATIO_LIMIT).exp()


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, epsilon: float, epsilon_high: float, delta: float | None
) -> Surrogate:
    """-min(min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A); shapes broadcast. delta None: no cap."""
    clipped_ratio = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    capped_ratio = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.min(capped_ratio * advantages, clipped_ratio * advantages)
    too_low = (ratio < 1 - epsilon) & (advantages < 0)
    too_high = (ratio > 1 + epsilon_high) & (advantages > 0)
    return Surrogate(loss, ratio, too_low | too_high)


def cispo_surrogate(ratio: Tensor, advantages: Tensor, log_probs: Tensor, *, epsilon_high: float) -> Surrogate:
    """-sg[min(rho, epsilon_high)] A log P: the cap is absolute and never stops the gradient; shapes broadcast."""
    loss = -ratio.clamp(max=epsilon_high).detach() * advantages * log_probs
    return Surrogate(loss, ratio, (ratio > epsilon_high) & (advantages > 0))


def reduce_positions(
    loss: Tensor, position_mask: Tensor, list_mask: Tensor, *, loss_type: str, num_positions: int | Tensor
) -> Tensor:
    """The scalar loss of the whole batch.

        sum            mean over rankings of the sum over positions (TRL's "luspo" aggregation)
        grpo           mean over rankings of the mean over positions
        bnpo           sum over all positions / their number
        dapo, cispo    the same: their global number of active positions is that of the batch given
        dr_grpo        sum over all positions / (rankings * num_positions)

    Args:
        loss: [..., G, k] or [..., G, 1], the same at every position.
        position_mask: [..., 1 or G, k] bool.
        list_mask: [...] bool, the lists that count, in numerator and denominator; without any the loss is 0.
        num_positions: the constant depth of `dr_grpo`.
    """
    loss, counted = torch.broadcast_tensors(loss, position_mask & list_mask[..., None, None])
    loss = loss.masked_fill(~counted, 0.0)
    num_rankings = list_mask.sum() * loss.shape[-2]
    if loss_type == "sum":
        total, denominator = loss.sum(), num_rankings
    elif loss_type == "grpo":
        lengths = counted.sum(dim=-1).clamp(min=1)
        total, denominator = (loss.sum(dim=-1) / lengths).sum(), num_rankings
    elif loss_type == "dr_grpo":
        total, denominator = loss.sum(), num_rankings * num_positions
    else:
        total, denominator = loss.sum(), counted.sum()
    return total / denominator.clamp(min=1)
