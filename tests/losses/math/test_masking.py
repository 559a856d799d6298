"""Masked logits: padding and precision."""

from __future__ import annotations

import torch

from losses.math.masking import masked_logits


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
