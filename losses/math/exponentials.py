"""Exponentials that do not overflow: gains of labels, and ratios of probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

# Gains beyond 2^50 are rescaled: the norm of the gradient of the weights, a sum of squares, still fits float32.
LARGEST_GAIN_EXPONENT = 50.0
# exp() is replaced by its tangent from here on: float32 would overflow at 88.
LOG_RATIO_LIMIT = 20.0


def exponential_gains(labels: Tensor) -> Tensor:
    """Return 2^label - 1 of the documents of a list; labels >= 0, [..., n] -> [..., n].

    The gains of a list with a label above 50 are all divided by the power of two that makes its largest gain 2^50. They
    keep their ratios, and nothing overflows, whatever the labels.
    """
    largest = labels.amax(dim=-1, keepdim=True) if labels.shape[-1] else labels.sum(dim=-1, keepdim=True)
    shift = (largest - LARGEST_GAIN_EXPONENT).clamp(min=0.0)
    return torch.exp2(labels - shift) - torch.exp2(-shift)


def bounded_exp(values: Tensor) -> Tensor:
    """Return e^x up to x = 20, and above it the tangent there, e^20 (x - 19); any shape.

    So value and gradient are finite, and neither stops growing nor changes its sign.
    """
    excess = (values - LOG_RATIO_LIMIT).relu()  # without a gradient at the limit itself, where `clamp` has one
    return values.clamp(max=LOG_RATIO_LIMIT).exp() * (1.0 + excess)
