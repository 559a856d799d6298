"""NeuralSort and its limit against sorting, and what Sinkhorn scaling promises (oracle 10)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses.math.neural_sort import hard_sort, neural_sort, sinkhorn

SIZES = (6, 4, 1)


@pytest.fixture
def ragged():
    """Lists of 6, 4 and 1 documents, padding in between and NaN there."""
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0]]).bool()
    return scores.masked_fill(~mask, torch.nan), mask


def permutations(scores, mask):
    """One-hot matrices of the rankings, documents of a rank as rows; zero rows beyond each list's length."""
    order = scores.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True)
    return F.one_hot(order, 6).double() * mask.unsqueeze(-2)


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_formula_by_hand(ragged, temperature):
    scores, mask = ragged
    result = neural_sort(scores, mask, temperature=temperature, k=6).exp()
    for row, size in enumerate(SIZES):
        own = scores[row][mask[row]]
        for rank in range(1, size + 1):
            logits = torch.stack([(size + 1 - 2 * rank) * s - sum(abs(s - other) for other in own) for s in own])
            expected = (logits / temperature).softmax(0)
            torch.testing.assert_close(result[row, rank - 1][mask[row]], expected)
        assert (result[row, size:] == 0).all()
        assert (result[row][:, ~mask[row]] == 0).all()


def test_the_limit_sorts(ragged):
    scores, mask = ragged
    relaxed = neural_sort(scores, mask, temperature=1e-5, k=6).exp()
    torch.testing.assert_close(relaxed, permutations(scores, mask))
    assert torch.equal(hard_sort(scores, mask, k=6), permutations(scores, mask))
    assert torch.equal(hard_sort(scores, mask, k=2), permutations(scores, mask)[..., :2, :])
    torch.testing.assert_close(neural_sort(scores, mask, temperature=1e-5, k=2).exp(), relaxed[..., :2, :])


def test_ties_share_their_ranks():
    scores, mask = torch.tensor([1.0, 3.0, 1.0, 7.0, 0.0]), torch.tensor([True, True, True, False, True])
    expected = torch.tensor(
        [[0, 1, 0, 0, 0], [0.5, 0, 0.5, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    )
    assert torch.equal(hard_sort(scores, mask, k=5), expected)
    torch.testing.assert_close(neural_sort(scores, mask, temperature=1e-4, k=5).exp(), expected)


def test_a_constant_does_not_round_the_scores_away():
    scores, mask = torch.tensor([0.25, -0.5, 1.0]), torch.ones(3, dtype=torch.bool)
    plain = neural_sort(scores, mask, temperature=0.5, k=3)
    torch.testing.assert_close(neural_sort(scores + 1e5, mask, temperature=0.5, k=3), plain)


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-3])
def test_oracle_10_rows_and_columns_sum_to_1_over_the_documents(ragged, scale):
    scores, mask = ragged
    rows = neural_sort(scale * scores, mask, temperature=1.0, k=6)
    result = sinkhorn(rows, mask, num_iterations=50)
    filled = torch.arange(6) < mask.sum(-1, keepdim=True)
    torch.testing.assert_close(result.sum(-1), filled.double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(result.sum(-2), mask.double(), atol=1e-5, rtol=0)
    if scale == 1:
        assert (rows.exp().sum(-2) - mask.double()).abs().max() > 0.05  # NeuralSort alone does not


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sinkhorn_of_extreme_scores(ragged, dtype):
    scores, mask = ragged
    extreme = (1e4 * scores).to(dtype).requires_grad_()
    result = sinkhorn(neural_sort(extreme, mask, temperature=1.0, k=6), mask, num_iterations=50)
    torch.testing.assert_close(result, permutations(scores, mask).to(dtype))
    (gradient,) = torch.autograd.grad((result**2).sum(), extreme)
    assert gradient.isfinite().all()


def test_sinkhorn_against_plain_division(ragged):
    scores, mask = ragged
    matrix = neural_sort(scores[:1], mask[:1], temperature=1.0, k=6).exp()
    result = sinkhorn(matrix.log(), mask[:1], num_iterations=7)
    for _ in range(7):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    torch.testing.assert_close(result, matrix)
