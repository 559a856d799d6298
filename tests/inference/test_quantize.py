"""Quantised vectors are those of sentence-transformers, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers.util.quantization import _dequantize_embeddings, quantize_embeddings

from inference.quantize import check_vector_precision, dequantize, quantize, ranges_of, stored_width

GENERATOR = np.random.default_rng(0)


def vectors(dim: int) -> np.ndarray:
    values = GENERATOR.standard_normal((200, dim)).astype(np.float32)
    values[:, 0] = 0.25  # a dimension that is constant
    values[3] = 0.0
    return values


@pytest.mark.parametrize("dim", [1, 7, 8, 13, 384])
def test_int8_and_binary_are_those_of_sentence_transformers(dim: int):
    values, others = vectors(dim), 3 * vectors(dim)  # many of the others lie outside the ranges
    for rows in (values, others):
        expected = quantize_embeddings(rows, "int8", calibration_embeddings=values)
        assert np.array_equal(quantize(rows, "int8", ranges_of(values)), expected)
        assert expected.dtype == quantize(rows, "int8", ranges_of(values)).dtype
    expected = quantize_embeddings(values, "ubinary")
    assert np.array_equal(quantize(values, "binary"), expected)
    assert expected.shape[1] == stored_width("binary", dim)
    assert np.array_equal(quantize(values, "binary") ^ 0x80, quantize_embeddings(values, "binary").view(np.uint8))


@pytest.mark.parametrize("dim", [1, 13, 384])
def test_they_are_read_back_as_by_sentence_transformers(dim: int):
    values = vectors(dim)
    ranges = ranges_of(values)
    codes = quantize(values, "int8", ranges)
    back = dequantize(codes, "int8", dim, ranges)
    assert np.array_equal(back, _dequantize_embeddings(codes, "int8", ranges).astype(np.float32))
    assert (np.abs(back - values) <= (ranges[1] - ranges[0]) / 255 * 1.001 + 1e-6).all()
    signs = dequantize(quantize(values, "binary"), "binary", dim)
    assert np.array_equal(signs, np.where(values > 0, np.float32(1), np.float32(-1)))
    assert np.array_equal(dequantize(quantize(values, "fp16"), "fp16", dim), values.astype(np.float16))
    assert np.array_equal(dequantize(quantize(values, "fp32"), "fp32", dim), values)


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match=r"encode\.precision=int4: choose fp32, fp16, int8, binary"):
        check_vector_precision("int4", "encode.precision")
