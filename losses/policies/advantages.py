"""Advantages of a group of G sampled actions, with TRL's names.

none    r - mean                         its expectation is (G-1)/G times the policy gradient
group   (r - mean) / (std + 1e-4)        sample std (G - 1) of the group; reweights the lists (GRPO, arXiv 2402.03300)
batch   (r - mean) / (std + 1e-4)        std of all rewards of the batch
rloo    r - mean of the other G - 1      unbiased (Ahmadian et al., arXiv 2402.14740)
"""

from __future__ import annotations

import torch
from torch import Tensor

from losses.math.checks import check_one_of
from losses.math.plackett_luce import reverse_cumsum
from losses.math.share import ALONE, Share

ADVANTAGE_ESTIMATORS = ("rloo", "none", "group", "batch")
EPSILON = 1e-4


def advantages(rewards: Tensor, estimator: str, list_mask: Tensor | None = None, share: Share = ALONE) -> Tensor:
    """Return the advantages of whole actions. Equal rewards in a group give exactly 0, without rounding error.

    Args:
        rewards: [..., G].
        estimator: one of `ADVANTAGE_ESTIMATORS`.
        list_mask: [...] bool, the groups whose rewards are part of the std of "batch" (None: all).
        share: which lists these are; by default all. The std of "batch" is that of all ranks.

    Returns:
        [..., G].
    """
    return _centred(rewards, estimator) / _scale(rewards, estimator, list_mask, share)


def reward_to_go_advantages(
    rewards: Tensor, estimator: str, list_mask: Tensor | None = None, share: Share = ALONE
) -> Tensor:
    """Return the advantage of each position: the reward-to-go minus its baseline over the group at that position.

    A choice cannot change the rewards before it, which would only add variance. The std of "group" and "batch" is the
    std of the whole actions' rewards: so the first position has the same advantage as in `advantages`.

    rewards: [..., G, k], additive over positions -> [..., G, k]. estimator, list_mask: as for `advantages`.
    """
    to_go = reverse_cumsum(rewards).transpose(-1, -2)
    centred = _centred(to_go, estimator).transpose(-1, -2)
    return centred / _scale(rewards.sum(dim=-1), estimator, list_mask, share).unsqueeze(-1)


def all_equal(rewards: Tensor) -> Tensor:
    """[..., G] -> [...] bool: whether all rewards of the group are equal, so that it teaches nothing."""
    return (rewards == rewards[..., :1]).all(dim=-1)


def _centred(values: Tensor, estimator: str) -> Tensor:
    check_one_of("advantage estimator", estimator, ADVANTAGE_ESTIMATORS)
    group_size = values.shape[-1]
    centred = values - values.mean(dim=-1, keepdim=True)
    if estimator == "rloo":
        centred = centred * group_size / (group_size - 1)
    return centred.masked_fill(all_equal(values).unsqueeze(-1), 0.0)


def _scale(rewards: Tensor, estimator: str, list_mask: Tensor | None, share: Share) -> Tensor:
    """Return the divisor of the centred rewards, broadcastable to [..., G]."""
    if estimator == "group":
        return rewards.std(dim=-1, keepdim=True) + EPSILON
    if estimator == "batch":
        return _deviation(rewards, list_mask, share) + EPSILON
    return torch.ones_like(rewards[..., :1])


def _deviation(rewards: Tensor, list_mask: Tensor | None, share: Share) -> Tensor:
    """The sample std of all rewards of the groups of all ranks; 0 for fewer than two."""
    rewards = rewards.detach()
    counted = torch.ones_like(rewards, dtype=torch.bool)
    counted = counted if list_mask is None else counted & list_mask.unsqueeze(-1)
    number = share.sum(counted.sum())
    mean = share.sum(rewards.masked_fill(~counted, 0.0).sum()) / number.clamp(min=1)
    squares = share.sum((rewards - mean).masked_fill(~counted, 0.0).square().sum())
    return (squares / (number - 1).clamp(min=1)).sqrt()
