"""Policy over subsets of fixed size k: P(S) = exp(sum_{i in S} s_i) / e_k(exp(s)).

For rerankers that are rewarded for the set they choose, whatever its order (the documents a reader is given). So far
mathematics alone: no loss under conf/loss uses it.

e_k, the elementary symmetric polynomial, comes by its log-space recursion in O(n k) (conditional Poisson sampling;
Kulesza and Taskar 2012, section 5.2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from losses.lists import masked_logits


def log_elementary_symmetric(logits: Tensor, k: int) -> Tensor:
    """log e_k(exp(logits)): [..., n] -> [...]. Elements at `finfo.min` take no part; needs k others."""
    lowest = torch.finfo(logits.dtype).min
    sums = logits.new_full((*logits.shape[:-1], k + 1), lowest)
    sums[..., 0] = 0.0
    for element in logits.unbind(dim=-1):
        with_element = torch.logaddexp(sums[..., 1:], sums[..., :-1] + element.unsqueeze(-1))
        sums = torch.cat([sums[..., :1], with_element], dim=-1)
    return sums[..., k]


def subset_log_prob(scores: Tensor, mask: Tensor, subsets: Tensor, *, temperature: float, k: int) -> Tensor:
    """log P(S). scores, mask: [..., n]; subsets: [..., G, n] bool, k documents each -> [..., G]."""
    logits = masked_logits(scores, mask, temperature)
    chosen = logits.unsqueeze(-2).masked_fill(~subsets, 0.0).sum(dim=-1)
    return chosen - log_elementary_symmetric(logits, k).unsqueeze(-1)


def inclusion_probabilities(scores: Tensor, mask: Tensor, *, temperature: float, k: int) -> Tensor:
    """P(document in S), [..., n] -> [..., n], summing to k: the derivative of log e_k by the logits. A constant."""
    with torch.enable_grad():
        logits = masked_logits(scores.detach(), mask, temperature).requires_grad_()
        (probabilities,) = torch.autograd.grad(log_elementary_symmetric(logits, k).sum(), logits)
    return probabilities
