"""NeuralNDCG against allRank's deterministic formula, carried out by hand, and its limit, NDCG (oracle 10)."""

from __future__ import annotations

import math

import pytest
import torch

from losses.neural_ndcg import NeuralNDCG
from losses.rewards import NDCG


@pytest.fixture
def ragged():
    scores = torch.tensor([[0.3, -1.2, 2.0, 1.1, -0.4, 0.9], [1.0, torch.nan, -1.0, 0.2, torch.nan, 2.5]]).double()
    labels = torch.tensor([[0.0, 2.0, 1.0, 0.0, 3.0, 0.0], [1.0, torch.nan, 0.0, 2.0, torch.nan, 0.0]]).double()
    return scores, labels, ~scores.isnan()


def by_hand(scores, labels, *, temperature, k, gain, num_iterations):
    """NeuralSort, 50 times columns and rows, gains in the relaxed order, discounted: of one list without padding."""
    n = len(scores)
    distances = (scores[:, None] - scores).abs().sum(1)
    rows = [(((n + 1 - 2 * rank) * scores - distances) / temperature).softmax(0) for rank in range(1, n + 1)]
    matrix = torch.stack(rows)
    for _ in range(num_iterations):
        matrix = matrix / matrix.sum(0, keepdim=True)
        matrix = matrix / matrix.sum(1, keepdim=True)
    gains = labels if gain == "linear" else 2**labels - 1
    discounts = [1 / math.log2(1 + rank) if rank <= (k or n) else 0.0 for rank in range(1, n + 1)]
    dcg = sum(discount * value for discount, value in zip(discounts, matrix @ gains, strict=True))
    best_first = gains.sort(descending=True).values
    return -dcg / sum(discount * value for discount, value in zip(discounts, best_first, strict=True))


@pytest.mark.parametrize("gain", ["linear", "exponential"])
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("num_iterations", [0, 50])
def test_value_and_gradient_by_hand(ragged, k, gain, num_iterations):
    scores, labels, mask = ragged
    scores.requires_grad_()
    values, valid = NeuralNDCG(0.8, k, gain, num_iterations).per_list(scores, labels, mask)
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    assert valid.all()
    for row in (0, 1):
        own = scores.detach()[row][mask[row]].requires_grad_()
        options = {"temperature": 0.8, "k": k, "gain": gain, "num_iterations": num_iterations}
        expected = by_hand(own, labels[row][mask[row]], **options)
        torch.testing.assert_close(values[row], expected, rtol=1e-6, atol=0)  # gains are float32
        torch.testing.assert_close(
            gradient[row][mask[row]], torch.autograd.grad(expected, own)[0], rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("gain", ["linear", "exponential"])
@pytest.mark.parametrize("k", [None, 3])
def test_oracle_10_the_limit_is_ndcg(ragged, k, gain):
    scores, labels, mask = ragged
    ranking = scores.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True).unsqueeze(-2)
    ndcg = NDCG(k, gain)(ranking, labels, mask)[..., 0]
    values = NeuralNDCG(temperature=1e-4, k=k, gain=gain).per_list(scores, labels, mask)[0]
    torch.testing.assert_close(values, -ndcg.double(), rtol=1e-6, atol=0)
    assert (NeuralNDCG(temperature=1.0, k=k, gain=gain).per_list(scores, labels, mask)[0] + ndcg).abs().max() > 0.02


def test_a_list_of_one_label_does_not_count(ragged):
    scores, _, mask = ragged
    _, valid = NeuralNDCG().per_list(scores, torch.ones(2, 6), mask)
    assert not valid.any()


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        NeuralNDCG(temperature=0.0)
    with pytest.raises(ValueError, match="num_sinkhorn_iterations must be at least 0"):
        NeuralNDCG(num_sinkhorn_iterations=-1)
    with pytest.raises(ValueError, match=r"NDCG\.k must be at least 1"):
        NeuralNDCG(k=0)
    with pytest.raises(ValueError, match=r"NDCG\.gain='log' is not known"):
        NeuralNDCG(gain="log")
