"""Pairs of documents: by hand, padding, and lists without a pair."""

from __future__ import annotations

import torch

from losses.math.pairs import differences, label_pairs, mean_over_pairs, sum_over_pairs

NAN = torch.nan
LABELS = torch.tensor([[0.0, 2.0, 1.0, NAN], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, NAN, NAN], [NAN] * 4])
MASK = torch.tensor([[True, True, True, False], [True] * 4, [True, False, False, False], [False] * 4])


def test_pairs_are_strict_and_of_real_documents():
    pairs = label_pairs(LABELS, MASK)
    assert pairs[0].nonzero().tolist() == [[1, 0], [1, 2], [2, 0]]
    assert not pairs[1:].any()


def test_differences_are_taken_in_float32_and_padding_is_harmless():
    scores = torch.tensor([[9.0, 9.01, 8.0, NAN]], dtype=torch.bfloat16, requires_grad=True)
    values = differences(scores, MASK[:1])
    assert values.dtype == torch.float32
    assert values[0, 2, 0] == -1
    assert values.isfinite().all()
    mean, _ = mean_over_pairs(values.exp(), label_pairs(LABELS[:1], MASK[:1]))
    (gradient,) = torch.autograd.grad(mean.sum(), scores)
    assert gradient.isfinite().all()
    assert gradient[0, 3] == 0
    assert differences(scores.double(), MASK[:1]).dtype == torch.float64


def test_sum_and_mean_of_each_list():
    values = torch.arange(16.0).view(4, 4).expand(4, 4, 4)
    total, valid = sum_over_pairs(values, label_pairs(LABELS, MASK))
    assert total.tolist() == [4 + 6 + 8, 0, 0, 0]
    assert valid.tolist() == [True, False, False, False]
    mean, valid = mean_over_pairs(values, label_pairs(LABELS, MASK))
    assert mean.tolist() == [6, 0, 0, 0]
    assert valid.tolist() == [True, False, False, False]
