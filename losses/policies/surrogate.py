"""The policy-gradient surrogates of GRPO and its variants, per position, and their reduction to a scalar (TRL's names).

References: PPO's clipped ratio (arXiv 1707.06347), GRPO (2402.03300), Dr. GRPO (2503.20783), DAPO (2503.14476),
GSPO (2507.18071), CISPO (MiniMax-M1, 2506.13585), two-sided clipping with `delta` (INTELLECT-2, 2505.07291).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from losses.math.exponentials import bounded_exp
from losses.math.share import ALONE, Share

IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence", "sequence_product")
LOSS_TYPES = ("sum", "grpo", "bnpo", "dapo", "dr_grpo", "cispo")


class Surrogate(NamedTuple):
    """The loss to minimise; `ratio`: rho, differentiable; `clipped`: bool, the clipped branch stops the gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def importance_ratio(log_ratio: Tensor, position_mask: Tensor, level: str) -> Tensor:
    """Return rho. Above e^20 it is continued by its tangent: float32 does not overflow, and a choice that has become
    far more probable than it was and turned out bad still has a gradient.

    Args:
        log_ratio: log P - log P_old of each position, [..., G, k], 0 at masked positions.
        position_mask: [..., 1 or G, k] bool.
        level: "token", the ratio of each position; "sequence", exp of the mean log-ratio (GSPO's geometric mean);
            "sequence_product", exp of the sum (the ratio of the actions' probabilities).

    Returns:
        [..., G, k] for "token", else [..., G, 1].
    """
    if level != "token":
        log_ratio = log_ratio.sum(dim=-1, keepdim=True)
    if level == "sequence":
        log_ratio = log_ratio / position_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return bounded_exp(log_ratio)


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, epsilon: float, epsilon_high: float, delta: float | None
) -> Surrogate:
    """Return -min(min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A). Shapes broadcast; delta None: no
    cap."""
    clipped_ratio = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    capped_ratio = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.min(capped_ratio * advantages, clipped_ratio * advantages)
    too_low = (ratio < 1 - epsilon) & (advantages < 0)
    too_high = (ratio > 1 + epsilon_high) & (advantages > 0)
    return Surrogate(loss, ratio, too_low | too_high)


def cispo_surrogate(ratio: Tensor, advantages: Tensor, log_probs: Tensor, *, epsilon_high: float) -> Surrogate:
    """Return -sg[min(rho, epsilon_high)] A log P. The absolute cap never stops the gradient; shapes broadcast."""
    loss = -ratio.clamp(max=epsilon_high).detach() * advantages * log_probs
    return Surrogate(loss, ratio, (ratio > epsilon_high) & (advantages > 0))


def reduce_positions(
    loss: Tensor,
    position_mask: Tensor,
    list_mask: Tensor,
    *,
    loss_type: str,
    num_positions: int | Tensor,
    share: Share = ALONE,
) -> Tensor:
    """Return the scalar loss of the whole batch, of which these are the groups of a rank.

        sum            mean over actions of the sum over positions (TRL's "luspo" aggregation)
        grpo           mean over actions of the mean over positions
        bnpo           sum over all positions / their number
        dapo, cispo    the same: TRL divides by the global number of positions, and this batch is the global one
        dr_grpo        sum over all positions / (actions * num_positions)

    Args:
        loss: [..., G, k] or [..., G, 1], the same at every position.
        position_mask: [..., 1 or G, k] bool.
        list_mask: [...] bool, the groups in numerator and denominator; if there are none, the loss is 0.
        num_positions: the constant number of positions of `dr_grpo`.
        share: which lists these are; by default all.
    """
    loss, counted = torch.broadcast_tensors(loss, position_mask & list_mask[..., None, None])
    loss = loss.masked_fill(~counted, 0.0)
    num_actions = list_mask.sum() * loss.shape[-2]
    if loss_type == "sum":
        total, denominator = loss.sum(), num_actions
    elif loss_type == "grpo":
        lengths = counted.sum(dim=-1).clamp(min=1)
        total, denominator = (loss.sum(dim=-1) / lengths).sum(), num_actions
    elif loss_type == "dr_grpo":
        total, denominator = loss.sum(), num_actions * num_positions
    else:
        total, denominator = loss.sum(), counted.sum()
    return share.fraction(total, denominator)
