"""Quantised values are what is read back of stored codes, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.quantize import dequantize, quantize
from inference.quantize import ranges_of as stored_ranges_of
from losses.math.quantization import int8_values, ranges_of, signs


def vectors(dim: int) -> torch.Tensor:
    values = torch.randn(300, dim, generator=torch.Generator().manual_seed(dim))
    values[:, 0] = 0.25  # a dimension that is constant
    values[3], values[4] = 0.0, -0.0
    return values


@pytest.mark.parametrize("dim", [1, 7, 8, 384])
def test_they_are_what_inference_reads_back(dim: int):
    values = vectors(dim)
    ranges = ranges_of(values)
    assert np.array_equal(ranges.numpy(), stored_ranges_of(values.numpy()))
    for rows in (values, 3 * values):  # many of the others lie outside
        codes = quantize(rows.numpy(), "int8", ranges.numpy())
        assert np.array_equal(int8_values(rows, ranges).numpy(), dequantize(codes, "int8", dim, ranges.numpy()))
    read = dequantize(quantize(values.numpy(), "binary"), "binary", dim)
    assert np.array_equal(signs(values).numpy(), read)
    assert signs(values).unique().tolist() == [-1.0, 1.0]


def test_by_hand():
    ranges = torch.tensor([[0.0, -1.0], [255.0, -1.0]])
    rows = torch.tensor([[0.0, -1.0], [3.9, 5.0], [255.0, -9.0], [999.0, 0.5]])
    expected = torch.tensor([[0.0, -1.0], [3.0, 5.0], [255.0, -1.0], [255.0, 0.0]])
    assert torch.equal(int8_values(rows, ranges), expected)


def test_leading_axes_types_and_gradients():
    values = vectors(4).reshape(3, 100, 4).requires_grad_()
    ranges = ranges_of(values)
    assert torch.equal(ranges, ranges_of(values.flatten(0, 1)))
    assert not int8_values(values, ranges).requires_grad
    assert not signs(values).requires_grad
    assert int8_values(values.double(), ranges).dtype == torch.float64
    assert int8_values(values.bfloat16(), ranges).dtype == torch.float32
    assert torch.equal(ranges_of(values[:, :0]), torch.zeros(2, 4))
