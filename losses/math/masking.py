"""What list losses share: logits with padding masked, float32 precision, and weights of relevant documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tensors.ragged import Ragged, place, take


def at_least_float32(values: Any) -> Any:
    """Half precision becomes float32 (bf16 differences of scores near 10 are ties); float32 and float64 stay."""
    return values if values.dtype == torch.float64 else values.float()


def on_host(values: Tensor) -> Tensor:
    """The values on the CPU. What a step copied to a GPU keeps the original as its attribute `on_host`, so that the
    host does not wait for the GPU only to learn what it has sent there."""
    known: Tensor | None = getattr(values, "on_host", None)
    return values.cpu() if known is None else known


def rows_where(values: Any, mask: Tensor) -> Any:
    """values[mask] of values [lists, n, ...] and mask [lists, n]: [rows, ...]. The host knows the number of rows."""
    places = on_host(mask).flatten().nonzero().squeeze(1)
    if len(places) == mask.numel():
        return values.flatten(0, 1)  # no copy: there is no padding
    return take(values.flatten(0, 1), places)


def without_padding(values: Any, mask: Tensor) -> Any:
    """The representations [lists, n, ...] with zeros in the place of padding, which may be anything; of ragged ones
    without its elements."""
    if isinstance(values, Ragged):
        return place(rows_where(values, mask), on_host(mask))
    return values.masked_fill(~mask.unsqueeze(-1), 0.0)


def masked_logits(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """(scores - their maximum) / temperature, `finfo.min` at padding. scores, mask (bool): [..., n] -> [..., n].

    Subtracting the list's maximum (a constant for the gradient) does not change a softmax and keeps large scores exact.
    Padding is filled after the division, because the division would overflow the fill value. It is never filled with
    -inf, because `logcumsumexp` has NaN gradients there, and a score of -inf becomes `finfo.min` too. Values at padding
    (NaN included) are ignored.
    """
    scores = at_least_float32(scores)
    lowest = torch.finfo(scores.dtype).min
    highest = scores.detach().masked_fill(~mask, lowest).amax(dim=-1, keepdim=True)
    return ((scores - highest) / temperature).clamp(min=lowest).masked_fill(~mask, lowest)


def positive_weights(relevant: Tensor, mask: Tensor, pos_weight: float | str | None) -> Tensor | float:
    """The weight of a list's relevant documents.

    A number is returned as it is, None as 1. "auto" gives the number of other documents per relevant one, [..., 1],
    or 1 if the list has only one of the two kinds. relevant, mask: [..., n] bool.
    """
    if not isinstance(pos_weight, str):
        return 1.0 if pos_weight is None else pos_weight
    positives = (relevant & mask).sum(dim=-1, keepdim=True)
    negatives = (~relevant & mask).sum(dim=-1, keepdim=True)
    return (negatives / positives.clamp(min=1)).masked_fill(negatives == 0, 1.0)
