"""Stored vectors of fewer bits as values: int8 in the ranges of each dimension, and signs.

They are, to the last bit, what `inference.quantize` reads back of the codes that it stores, and so
sentence-transformers' `quantize_embeddings` for "int8" and "ubinary".
"""

from __future__ import annotations

import torch
from torch import Tensor

from losses.math.masking import at_least_float32

LEVELS = 255  # steps between the lowest and the highest code of a byte


def ranges_of(vectors: Tensor) -> Tensor:
    """The lowest and the highest value of each dimension: [..., dim] -> [2, dim]; zeros if there is no vector."""
    rows = at_least_float32(vectors.detach()).flatten(0, -2)
    return torch.stack([rows.amin(0), rows.amax(0)]) if len(rows) else rows.new_zeros(2, rows.shape[-1])


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
