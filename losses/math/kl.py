"""Per-position estimates of KL(policy || reference) from sampled choices (joschu.net/blog/kl-approx.html).

With d = log p_ref - log p: k1 = -d, k2 = d^2/2, k3 = e^d - d - 1. The expectation of k1 and k3 is the divergence, that
of k2 is not. As a *loss* on the policy's own samples, their expected gradients differ: that of k1 is zero, that of k2
is the gradient of the reverse KL, that of k3 is the gradient of the forward KL, and that of k3 times the differentiable
ratio is the gradient of the reverse KL (DeepSeek-V3.2, arXiv 2512.02556).
"""

from __future__ import annotations

from torch import Tensor

# The limit of exp()'s argument: float32 must not overflow, and a sample of ratio e^20 teaches nothing.
LOG_RATIO_LIMIT = 20.0


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return log p - log p_ref; any shape. Useful in the reward only."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return (log p_ref - log p)^2 / 2; any shape."""
    return 0.5 * (reference_log_probs - log_probs) ** 2


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return e^d - d - 1 with d = log p_ref - log p, at least 0; any shape."""
    difference = reference_log_probs - log_probs
    return difference.clamp(max=LOG_RATIO_LIMIT).exp() - difference - 1
