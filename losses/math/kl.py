"""Per-position estimates of KL(policy || reference) from sampled choices (joschu.net/blog/kl-approx.html).

With d = log p_ref - log p: k1 = -d, k2 = d^2/2, k3 = e^d - d - 1. All but k2 have the divergence as expectation; as a
*loss*, on the policy's own samples, their expected gradients differ: k1 none at all, k2 that of the reverse KL, k3 that
of the forward KL, and k3 times the differentiable ratio that of the reverse KL (DeepSeek-V3.2, arXiv 2512.02556).
"""

from __future__ import annotations

from torch import Tensor

# Bounds exp(): at a ratio of e^20 nothing is left to learn from a sample, and float32 must not overflow.
LOG_RATIO_LIMIT = 20.0


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log p - log p_ref; any shape. Of use in the reward only."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """(log p_ref - log p)^2 / 2; any shape."""
    return 0.5 * (reference_log_probs - log_probs) ** 2


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """e^d - d - 1 with d = log p_ref - log p, at least 0; any shape."""
    difference = reference_log_probs - log_probs
    return difference.clamp(max=LOG_RATIO_LIMIT).exp() - difference - 1
