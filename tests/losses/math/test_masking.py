"""The helpers that every list loss shares."""

from __future__ import annotations

import pytest
import torch

from losses.math.masking import above_zero, at_least, masked_logits, one_of


def test_padding_is_filled_after_the_division_and_its_values_are_ignored():
    scores = torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, 5.0, torch.nan]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    logits = masked_logits(scores, mask, 0.01)
    lowest = torch.finfo(torch.float32).min
    torch.testing.assert_close(logits, torch.tensor([[-200.0, lowest, 0.0], [lowest, 0.0, lowest]]))
    (gradient,) = torch.autograd.grad(logits.softmax(-1).square().sum() + logits[0, 0], scores)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


def test_precision():
    mask = torch.ones(3, dtype=torch.bool)
    assert masked_logits(torch.ones(3, dtype=torch.bfloat16), mask, 1.0).dtype == torch.float32
    assert masked_logits(torch.ones(3, dtype=torch.float64), mask, 1.0).dtype == torch.float64


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="mode='c' is not known; choose one of: a, b"):
        one_of("mode", "c", ("a", "b"))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        at_least("k", 0, 1)
    with pytest.raises(ValueError, match="temperature must be a finite number, got nan"):
        above_zero("temperature", float("nan"))
