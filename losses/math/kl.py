"""Per-position estimates of KL(policy || reference) from sampled choices (joschu.net/blog/kl-approx.html).

With d = log p_ref - log p: k1 = -d, k2 = d^2/2, k3 = e^d - d - 1. The expectation of k1 and k3 is the divergence, that
of k2 is not. As a *loss* on the policy's own samples, their expected gradients differ: that of k1 is zero, that of k2
is the gradient of the reverse KL, that of k3 is the gradient of the forward KL, and that of k3 times the differentiable
ratio is the gradient of the reverse KL (DeepSeek-V3.2, arXiv 2512.02556).
"""

from __future__ import annotations

from torch import Tensor

from losses.math.exponentials import bounded_exp


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return log p - log p_ref; any shape. Useful in the reward only."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return (log p_ref - log p)^2 / 2; any shape."""
    return 0.5 * (reference_log_probs - log_probs) ** 2


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return e^d - d - 1 with d = log p_ref - log p, at least 0; any shape.

    Above d = 20, e^d is continued by its tangent: the gradient is finite and still raises the probability of a choice
    that the reference prefers.
    """
    difference = reference_log_probs - log_probs
    return bounded_exp(difference) - difference - 1


def ratio_times_k3(log_probs: Tensor, reference_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Return p / p_old (e^d - d - 1), d = log p_ref - log p, of single choices; any shape.

    It is computed as p_ref / p_old - p / p_old (d + 1): the large e^d is a constant there, as it is in exact
    arithmetic. Its gradient for log p is -(p / p_old) d, finite and of the right sign for every d.
    """
    ratio = bounded_exp(log_probs.detach() - old_log_probs)
    difference = reference_log_probs - log_probs
    gradient = ratio * k2(log_probs, reference_log_probs)
    value = bounded_exp(reference_log_probs - old_log_probs) - ratio * (difference + 1)
    return value.detach().clamp(min=0.0) + gradient - gradient.detach()  # only rounding makes it negative
