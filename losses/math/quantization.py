"""Stored vectors of fewer bits as values: int8 in the ranges of each dimension, and signs.

They are, to the last bit, what `inference.quantize` reads back of the codes that it stores, and so
sentence-transformers' `quantize_embeddings` for "int8" and "ubinary".
"""

from __future__ import annotations

import torch
from torch import Tensor

from losses.math.masking import at_least_float32
from losses.math.share import ALONE, Share

LEVELS = 255  # steps between the lowest and the highest code of a byte


def ranges_of(vectors: Tensor, mask: Tensor | None = None, share: Share = ALONE) -> Tensor:
    """The lowest and the highest value of each dimension: [..., dim] -> [2, dim], of the vectors of all ranks where
    `mask` [...] is True (None: all); zeros if there is none."""
    rows = at_least_float32(vectors.detach()).flatten(0, -2)
    nothing = rows.new_full((1, rows.shape[-1]), torch.inf)  # also an amin of no rows has a value
    padding = rows.new_zeros(len(rows), 1, dtype=torch.bool) if mask is None else ~mask.reshape(-1, 1)
    low = share.least(torch.cat([rows.masked_fill(padding, torch.inf), nothing]).amin(0))
    high = share.most(torch.cat([rows.masked_fill(padding, -torch.inf), -nothing]).amax(0))
    return torch.stack([low, high]).masked_fill(low > high, 0.0)


def int8_values(vectors: Tensor, ranges: Tensor) -> Tensor:
    """low + step * clip(floor((x - low) / step), 0, 255) with step = (high - low) / 255, or 1 if that is 0
    (sentence-transformers' `quantize_embeddings`, read back).

    vectors [..., dim] and ranges [2, dim] (low, high) -> [..., dim], without a gradient.
    """
    vectors = at_least_float32(vectors.detach())
    low, high = ranges.detach().to(vectors)
    steps = (high - low) / LEVELS
    steps = steps.where(steps != 0, torch.ones_like(steps))
    codes = ((vectors - low) / steps).floor().clamp(0, LEVELS)
    return (codes.double() * steps.double() + low.double()).to(vectors.dtype)


def signs(vectors: Tensor) -> Tensor:
    """1 where x > 0, else -1: [..., dim] -> [..., dim], without a gradient."""
    vectors = at_least_float32(vectors.detach())
    return (vectors > 0).to(vectors.dtype) * 2 - 1
