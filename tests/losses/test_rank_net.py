"""RankNet by hand; sentence-transformers' in test_sentence_transformers.py."""

from __future__ import annotations

import math

import pytest
import torch

from losses.rank_net import RankNet

SCORES = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [-15.0, 15.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 0.0, 9.0]])
MASK = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_by_hand():
    values, valid = RankNet(sigma=2.0).per_list(SCORES, LABELS, MASK)
    assert valid.tolist() == [True, False, True]
    expected = [(softplus(2) + softplus(4) + softplus(2)) / 3, 0, softplus(60)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_a_misordering_of_30_keeps_its_gradient():
    scores = SCORES[2].float().requires_grad_()
    (gradient,) = torch.autograd.grad(RankNet()(scores, LABELS[2], MASK[2]), scores)
    torch.testing.assert_close(gradient, torch.tensor([-1.0, 1.0, 0.0]))


def test_options():
    with pytest.raises(ValueError, match="sigma must be above 0"):
        RankNet(sigma=0.0)
