"""Poly-1 against its closed form (as rax computes it), and the softmax cross-entropy at epsilon 0."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from losses.poly_one import PolyOne
from losses.softmax_cross_entropy import SoftmaxCrossEntropy

SCORES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.arange(5) < torch.tensor([[5], [4], [5], [5]])
LABELS = torch.tensor([[0, 1, 0, 0, 0], [2, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 3]]).double()


def test_by_hand():
    """p = (1/4, 3/4); labels (1, 2): -log(1/4) - 2 log(3/4) + 0.5 (1 - (1/4 + 2 * 3/4) / 3)."""
    scores, mask = torch.tensor([0.0, math.log(3)], dtype=torch.float64), torch.tensor([True, True])
    loss = PolyOne(epsilon=0.5)(scores, torch.tensor([1.0, 2.0]), mask)
    assert loss.item() == pytest.approx(math.log(4) + 2 * math.log(4 / 3) + 0.5 * (1 - 1.75 / 3), abs=1e-12)


def test_one_relevant_document_is_the_papers():
    """Cross-entropy + epsilon (1 - probability of the target)."""
    target = torch.tensor([1, 0, 2])
    labels, mask = F.one_hot(target, 5), torch.ones(3, 5, dtype=torch.bool)
    probability = (SCORES[:3] / 0.5).softmax(-1).gather(-1, target[:, None])
    expected = F.cross_entropy(SCORES[:3] / 0.5, target) + 2 * (1 - probability).mean()
    torch.testing.assert_close(PolyOne(epsilon=2.0, temperature=0.5)(SCORES[:3], labels, mask), expected)


def test_epsilon_0_is_the_softmax_cross_entropy():
    expected = SoftmaxCrossEntropy(0.7)(SCORES, LABELS, MASK)
    torch.testing.assert_close(PolyOne(epsilon=0.0, temperature=0.7)(SCORES, LABELS, MASK), expected)


def test_only_lists_with_a_relevant_document_count():
    values, valid = PolyOne().per_list(SCORES, LABELS, MASK)
    assert valid.tolist() == [True, True, False, True]
    torch.testing.assert_close(PolyOne()(SCORES, LABELS, MASK), values[[0, 1, 3]].mean())


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        PolyOne(temperature=0.0)
    with pytest.raises(ValueError, match="epsilon must be a finite number"):
        PolyOne(epsilon=math.nan)
