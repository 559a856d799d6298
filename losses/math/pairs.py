"""Pairs of the documents of a list: which are compared, their score differences, the mean of their losses."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.math.masking import at_least_float32


def label_pairs(labels: Tensor, mask: Tensor) -> Tensor:
    """[..., n, n] bool: i is strictly more relevant than j, and neither is padding. labels, mask (bool): [..., n]."""
    return (labels.unsqueeze(-1) > labels.unsqueeze(-2)) & real_pairs(mask)


def real_pairs(mask: Tensor) -> Tensor:
    """[..., n, n] bool: neither i nor j is padding. mask: [..., n] bool."""
    return mask.unsqueeze(-1) & mask.unsqueeze(-2)


def differences(scores: Tensor, mask: Tensor) -> Tensor:
    """[..., n, n]: scores_i - scores_j in float32 at least. scores, mask (bool): [..., n].

    Padding counts as 0, whatever stands there: a NaN behind a `where` would still make the gradient NaN.
    """
    scores = at_least_float32(scores).masked_fill(~mask, 0.0)
    return scores.unsqueeze(-1) - scores.unsqueeze(-2)


def sum_over_pairs(values: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of each list over its pairs, and whether it has any.

    values (finite), pairs (bool): [..., n, n] -> values [...], valid [...] bool.
    """
    total = values.where(pairs, torch.zeros_like(values)).sum(dim=(-2, -1))
    return total, pairs.any(dim=-1).any(dim=-1)


def mean_over_pairs(values: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each list over its own pairs (0 without one), and whether it has any.

    Weighted pairs: `mean_over_pairs(weights * values, pairs)`, over the number of pairs, not the sum of weights.
    values (finite), pairs (bool): [..., n, n] -> values [...], valid [...] bool.
    """
    total, valid = sum_over_pairs(values, pairs)
    return total / pairs.sum(dim=(-2, -1)).clamp(min=1), valid
