"""What every loss of the list contract shares: masked logits, precision, and the check of a named option."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32 (bf16 differences of scores near 10 are ties); float32 and float64 stay."""
    return values if values.dtype == torch.float64 else values.float()


def masked_logits(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """(scores - their maximum) / temperature, `finfo.min` at padding. scores, mask (bool): [..., n] -> [..., n].

    Subtracting the list's maximum (a constant for the gradient) changes no softmax and keeps large scores exact.
    Padding is filled after the division, which would overflow the fill value, and never with -inf, at which
    `logcumsumexp` has NaN gradients. Whatever stands at padding (NaN included) is ignored.
    """
    scores = at_least_float32(scores)
    lowest = torch.finfo(scores.dtype).min
    highest = scores.detach().masked_fill(~mask, lowest).amax(dim=-1, keepdim=True)
    return ((scores - highest) / temperature).masked_fill(~mask, lowest)


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, listing the choices, where an option has none of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known; choose one of: {', '.join(choices)}")


def finite(name: str, value: float) -> None:
    """Raise ValueError where a number is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")


def at_least(name: str, value: float, minimum: float) -> None:
    """Raise ValueError where a number is below its minimum, or not finite."""
    finite(name, value)
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def above_zero(name: str, value: float) -> None:
    """Raise ValueError where a number is not positive, or not finite."""
    finite(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")
