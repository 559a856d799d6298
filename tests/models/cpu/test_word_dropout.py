"""Dropout by random words: its values, gradient and expectation, in every mode and type."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.cpu.random_words import DropRule
from models.cpu.word_dropout import BLOCK, WordDropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.01])
@pytest.mark.parametrize("shape", [(3, 5, 7), (BLOCK + 3,), (0, 4)])
def test_values_and_gradient_are_those_of_a_mask_times_the_scale(shape: tuple[int, ...], probability: float) -> None:
    values = torch.rand(shape).add_(1).requires_grad_()
    masked = dropout(values, probability)
    mask = (masked != 0).float() * DropRule.of(probability).scale
    torch.testing.assert_close(masked, values * mask, atol=1e-6, rtol=0)
    gradient = torch.randn(shape)
    (found,) = torch.autograd.grad(masked, values, gradient)
    torch.testing.assert_close(found, gradient * mask, atol=1e-6, rtol=0)


def test_the_expectation_is_the_value() -> None:
    ones, rule = torch.ones(2_000_000, dtype=torch.float64), DropRule.of(0.1)
    deviation = (rule.probability / (1 - rule.probability) / len(ones)) ** 0.5
    assert abs(float(dropout(ones, 0.1).mean()) - 1) < 5 * deviation


def test_the_layout_of_values_and_gradients_does_not_matter() -> None:
    values = torch.rand(6, 4).add_(1)
    torch.manual_seed(1)
    plain = dropout(values, 0.5)
    torch.manual_seed(1)
    other = dropout(values.t().contiguous().t(), 0.5)
    assert torch.equal(plain, other)
    leaf = values.clone().requires_grad_()
    masked = dropout(leaf, 0.5)
    masked.t().sum().backward()  # an expanded gradient
    assert torch.equal(leaf.grad, (masked.detach() != 0) * 2.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    values = torch.ones(1000, dtype=dtype, requires_grad=True)
    masked = dropout(values, 0.5)
    assert masked.dtype == dtype
    assert set(masked.tolist()) == {0.0, 2.0}
    masked.sum().backward()
    assert torch.equal(values.grad, masked.detach())


def test_the_module_is_torchs_dropout_elsewhere() -> None:
    module = WordDropout(0.5)
    values = torch.rand(50).add_(1)
    assert isinstance(module, nn.Dropout)
    assert repr(module).endswith("(p=0.5, inplace=False)")
    assert (copy.deepcopy(module)(values) == 0).any()
    assert torch.equal(module.eval()(values), values)
    module.train().p = 0.0
    assert torch.equal(module(values), values)
    module.p = 1.0
    assert torch.equal(module(values), torch.zeros(50))
    in_place = values.clone()
    assert WordDropout(0.5, inplace=True)(in_place) is in_place
    assert WordDropout(0.5)(torch.empty(3, device="meta")).is_meta
