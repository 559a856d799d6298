"""Unique softmax against its formula (rax's), document by document."""

from __future__ import annotations

import math

import pytest
import torch

from losses.rank_net import RankNet
from losses.unique_softmax import UniqueSoftmax

SCORES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([[0, 1, 0, 3, 1], [2, 0, 2, 0, 0], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0]]).double()
MASK = torch.arange(5) < torch.tensor([[5], [4], [5], [5]])


def by_document(scores, labels, temperature, gain):
    """The formula in Python's own floats."""
    total = 0.0
    exp = [math.exp(score / temperature) for score in scores]
    for i, label in enumerate(labels):
        below = sum(exp[j] for j, other in enumerate(labels) if other < label)
        total -= gain(label) * math.log(exp[i] / (exp[i] + below))
    return total


@pytest.mark.parametrize(("gain", "function"), [("exponential", lambda y: 2**y - 1), ("linear", lambda y: y)])
def test_equal_to_the_formula(gain, function):
    values, valid = UniqueSoftmax(0.6, gain).per_list(SCORES, LABELS.masked_fill(~MASK, torch.nan), MASK)
    assert valid.tolist() == [True, True, False, False]
    for row, size in ((0, 5), (1, 4), (2, 5), (3, 5)):
        expected = by_document(SCORES[row, :size].tolist(), LABELS[row, :size].tolist(), 0.6, function)
        assert values[row].item() == pytest.approx(expected, abs=1e-12)


def test_two_documents_are_rank_net():
    scores, labels, mask = torch.tensor([0.3, 1.1]), torch.tensor([1.0, 0.0]), torch.tensor([True, True])
    torch.testing.assert_close(UniqueSoftmax()(scores, labels, mask), RankNet()(scores, labels, mask))


def test_documents_of_one_grade_do_not_compete():
    """The better of two relevant documents does not push the other down: nothing but the third moves them."""
    scores = torch.tensor([5.0, -5.0, -40.0], requires_grad=True)
    loss = UniqueSoftmax()(scores, torch.tensor([1.0, 1.0, 0.0]), torch.ones(3, dtype=torch.bool))
    assert torch.autograd.grad(loss, scores)[0].abs().max() < 1e-12


def test_options():
    with pytest.raises(ValueError, match="choose one of: exponential, linear"):
        UniqueSoftmax(gain="exp")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        UniqueSoftmax(temperature=0.0)
