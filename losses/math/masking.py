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
    """Raise ValueError, listing the choices, if an option has none of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known; choose one of: {', '.join(choices)}")


def finite(name: str, value: float) -> None:
    """Raise ValueError if a number is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")


def at_least(name: str, value: float, minimum: float) -> None:
    """Raise ValueError if a number is below its minimum, or not finite."""
    finite(name, value)
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def above_zero(name: str, value: float) -> None:
    """Raise ValueError if a number is not positive, or not finite."""
    finite(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def check_positive_weight(pos_weight: float | str | None) -> None:
    """Raise ValueError if it is neither a positive number, "auto" nor None."""
    if isinstance(pos_weight, str):
        if pos_weight != "auto":
            raise ValueError(f"pos_weight={pos_weight!r} is not known; choose a number, auto or null (1)")
    elif pos_weight is not None:
        above_zero("pos_weight", pos_weight)


def positive_weights(relevant: Tensor, mask: Tensor, pos_weight: float | str | None) -> Tensor | float:
    """The weight of a list's relevant documents: a number, 1 for None, or for "auto" [..., 1] its other documents per
    relevant one, 1 where it has only one of them. relevant, mask: [..., n] bool."""
    if not isinstance(pos_weight, str):
        return 1.0 if pos_weight is None else pos_weight
    positives = (relevant & mask).sum(dim=-1, keepdim=True)
    negatives = (~relevant & mask).sum(dim=-1, keepdim=True)
    return (negatives / positives.clamp(min=1)).masked_fill(negatives == 0, 1.0)
