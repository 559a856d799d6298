"""Vectors in fewer bytes: halves, 8-bit integers and signs, exactly as sentence-transformers makes them."""

from __future__ import annotations

from typing import Literal

import numpy as np

Precision = Literal["fp32", "fp16", "int8", "binary"]

# int8 and binary are what `sentence_transformers.util.quantization.quantize_embeddings` gives for "int8" and "ubinary".
DTYPES: dict[str, np.dtype] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}


def check_vector_precision(precision: str, option: str = "precision") -> None:
    """Raise ValueError if vectors are not stored in that precision."""
    if precision not in DTYPES:
        raise ValueError(f"{option}={precision}: choose {', '.join(DTYPES)}")


def stored_width(precision: str, dim: int) -> int:
    """The number of stored values of a vector: of signs, the number of bytes."""
    return -(-dim // 8) if precision == "binary" else dim


def ranges_of(vectors: np.ndarray) -> np.ndarray:
    """The lowest and the highest value of each dimension: [n, dim] -> [2, dim]."""
    return np.vstack((vectors.min(axis=0), vectors.max(axis=0)))


def quantize(vectors: np.ndarray, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Convert vectors [n, dim] float32 to [n, stored_width] of `DTYPES[precision]`.

    int8: floor((x - low) / step) - 128, step = (high - low) / 255 (1 if that is 0), cut to [-128, 127]; `ranges`
    [2, dim] has low and high of each dimension. binary: 1 if x > 0, eight dimensions in a byte, the first in its
    highest bit.
    """
    if precision == "int8":
        assert ranges is not None
        low, steps = _steps(ranges)
        return (np.clip(np.floor((vectors - low) / steps), 0, 255) - 128).astype(np.int8)
    if precision == "binary":
        return np.packbits(vectors > 0, axis=-1)
    return vectors.astype(DTYPES[precision])


def dequantize(stored: np.ndarray, precision: str, dim: int, ranges: np.ndarray | None = None) -> np.ndarray:
    """Convert stored vectors back to [n, dim] float32. int8: (code + 128) * step + low. binary: 1 and -1."""
    if precision == "int8":
        assert ranges is not None
        low, steps = _steps(ranges)
        return ((stored.astype(np.float64) + 128) * steps + low).astype(np.float32)
    if precision == "binary":
        return np.unpackbits(stored, axis=-1, count=dim).astype(np.float32) * 2 - 1
    return stored.astype(np.float32)


def _steps(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ranges = ranges.astype(np.float32, copy=False)
    steps = (ranges[1] - ranges[0]) / 255
    return ranges[0], np.where(steps == 0, 1, steps)
