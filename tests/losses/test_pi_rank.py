"""PiRank: its value is the metric of record, its gradient that of the relaxed sort."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from losses.pi_rank import PiRank
from losses.rewards import NDCG

LABELS = torch.tensor([0.0, 2.0, 1.0, 0.0, 3.0])


@pytest.fixture
def ragged():
    scores = torch.tensor([[0.3, -1.2, 2.0, 1.1, -0.4, 0.9], [1.0, torch.nan, -1.0, 0.2, torch.nan, 2.5]])
    labels = torch.tensor([[0.0, 2.0, 1.0, 0.0, 3.0, 0.0], [1.0, torch.nan, 0.0, 2.0, torch.nan, 0.0]])
    return scores, labels, ~scores.isnan()


@pytest.mark.parametrize("gain", ["linear", "exponential"])
@pytest.mark.parametrize("k", [None, 1, 3, 10])
def test_the_value_is_ndcg(ragged, k, gain):
    scores, labels, mask = ragged
    ranking = scores.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True).unsqueeze(-2)
    values, valid = PiRank(k=k, gain=gain).per_list(scores, labels, mask)
    torch.testing.assert_close(values, -NDCG(k, gain)(ranking, labels, mask)[..., 0])
    assert valid.all()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ties_count_as_the_mean_over_their_orders(k):
    scores, mask = torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0]), torch.ones(5, dtype=torch.bool)
    orders = [[3, 1, *order] for order in permutations([0, 2, 4])]
    expected = NDCG(k, "exponential")(torch.tensor(orders), LABELS, mask).mean()
    torch.testing.assert_close(PiRank(k=k)(scores, LABELS, mask), -expected)


@pytest.mark.parametrize("k", [2, 5])
def test_the_gradient_is_that_of_neural_sort(k):
    """Of the top k rows of eq. 5 of Grover et al., without padding, by hand."""
    scores = torch.tensor([0.4, -1.0, 2.0, 0.1, -0.3], dtype=torch.float64, requires_grad=True)
    loss = PiRank(temperature=1.5, k=k)(scores, LABELS, torch.ones(5, dtype=torch.bool))
    distances = (scores[:, None] - scores).abs().sum(1)
    rows = [((6 - 2 * rank) * scores - distances).div(1.5).softmax(0) for rank in range(1, k + 1)]
    gains = 2 ** LABELS.double() - 1
    dcg = sum(row @ gains / math.log2(1 + rank) for rank, row in enumerate(rows, start=1))
    ideal = sum(gain / math.log2(1 + rank) for rank, gain in enumerate((7, 3, 1, 0, 0)[:k], start=1))
    (gradient,), (expected,) = (torch.autograd.grad(value, scores) for value in (loss, -dcg / ideal))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)
    assert gradient.abs().max() > 0.01


def test_a_cutoff_beyond_the_list_is_none(ragged):
    scores, labels, mask = ragged
    gradients = []
    for k in (None, 6, 50):
        own = scores.clone().requires_grad_()
        gradients.append(torch.autograd.grad(PiRank(k=k)(own, labels, mask), own)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        PiRank(temperature=0.0)
    with pytest.raises(ValueError, match=r"NDCG\.k must be at least 1"):
        PiRank(k=0)
    with pytest.raises(ValueError, match=r"NDCG\.gain='log' is not known"):
        PiRank(gain="log")
