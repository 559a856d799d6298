"""Pairs of documents of a list: which pairs are compared, their score differences, the mean of their losses."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.math.masking import at_least_float32


def label_pairs(labels: Tensor, mask: Tensor) -> Tensor:
    """Return [..., n, n] bool: i is more relevant than j, and neither is padding. labels, mask (bool): [..., n]."""
    return (labels.unsqueeze(-1) > labels.unsqueeze(-2)) & real_pairs(mask)


def real_pairs(mask: Tensor) -> Tensor:
    """Return [..., n, n] bool: neither i nor j is padding. mask: [..., n] bool."""
    return mask.unsqueeze(-1) & mask.unsqueeze(-2)


def differences(scores: Tensor, mask: Tensor) -> Tensor:
    """Return [..., n, n]: scores_i - scores_j, at least float32. scores, mask (bool): [..., n].

    Padding is set to 0 first: a NaN that a later `where` hides would still make the gradient NaN.
    """
    scores = at_least_float32(scores).masked_fill(~mask, 0.0)
    return scores.unsqueeze(-1) - scores.unsqueeze(-2)


def sum_over_pairs(values: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return each list's sum over its pairs, and whether it has a pair.

    values (finite), pairs (bool): [..., n, n] -> values [...], valid [...] bool.
    """
    total = values.where(pairs, torch.zeros_like(values)).sum(dim=(-2, -1))
    return total, pairs.any(dim=-1).any(dim=-1)


def mean_over_pairs(values: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return each list's mean over its own pairs (0 if it has none), and whether it has a pair.

    For weighted pairs call `mean_over_pairs(weights * values, pairs)`: it divides by the number of pairs, not by the
    sum of the weights. values (finite), pairs (bool): [..., n, n] -> values [...], valid [...] bool.
    """
    total, valid = sum_over_pairs(values, pairs)
    return total / pairs.sum(dim=(-2, -1)).clamp(min=1), valid
