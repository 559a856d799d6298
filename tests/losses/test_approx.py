"""ApproxNDCG and ApproxMRR against the published examples of rax and TF-Ranking, and their limit, the metrics."""

from __future__ import annotations

import math

import pytest
import torch

from losses.approx import ApproxMRR, ApproxNDCG, approximate_ranks
from losses.rewards import MRR, NDCG

ALL = torch.ones(4, dtype=torch.bool)
# The example in the documentation of rax.approx_t12n, and the values that it prints (temperature 1).
RAX = torch.tensor([0.0, 1.0, 3.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 2.0]), ALL
# The example in the documentation of tfr.keras.losses.ApproxNDCGLoss and ApproxMRRLoss (temperature 0.1).
TFR = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 0.0]), ALL[:2]


@pytest.fixture
def ragged():
    """Distinct scores a good part of a unit apart, graded labels, lists of 6 and 4 documents."""
    scores = torch.tensor([[0.3, -1.2, 2.0, 1.1, -0.4, 0.9], [1.0, -1.0, 0.2, 2.5, torch.nan, torch.nan]]).double()
    labels = torch.tensor([[0.0, 2.0, 1.0, 0.0, 3.0, 0.0], [1.0, 0.0, 2.0, 0.0, torch.nan, torch.nan]]).double()
    return scores, labels, ~scores.isnan()


def loop_ranks(scores: list[float], temperature: float) -> list[float]:
    return [
        1 + sum(1 / (1 + math.exp(-(other - own) / temperature)) for j, other in enumerate(scores) if j != i)
        for i, own in enumerate(scores)
    ]


def test_published_values():
    assert ApproxNDCG()(*RAX).item() == pytest.approx(-0.71789175, abs=1e-6)
    assert ApproxMRR()(*RAX).item() == pytest.approx(-0.6965873, abs=1e-6)
    assert ApproxNDCG(temperature=0.1)(*TFR).item() == pytest.approx(-0.655107, abs=1e-6)
    assert ApproxMRR(temperature=0.1)(*TFR).item() == pytest.approx(-0.53168947, abs=1e-6)


@pytest.mark.parametrize("gain", ["linear", "exponential"])
def test_the_formula_by_hand(ragged, gain):
    scores, labels, mask = ragged
    gain_of = (lambda y: y) if gain == "linear" else (lambda y: 2**y - 1)
    expected = []
    for row, size in ((0, 6), (1, 4)):
        ranks = loop_ranks(scores[row, :size].tolist(), 0.7)
        grades = labels[row, :size].tolist()
        torch.testing.assert_close(
            approximate_ranks(scores, mask, temperature=0.7)[row, :size], torch.tensor(ranks).double()
        )
        dcg = sum(gain_of(y) / math.log2(1 + rank) for y, rank in zip(grades, ranks, strict=True))
        ideal = sum(gain_of(y) / math.log2(1 + r) for r, y in enumerate(sorted(grades, reverse=True), start=1))
        expected.append(-dcg / ideal)
    values, valid = ApproxNDCG(temperature=0.7, gain=gain).per_list(scores, labels, mask)
    torch.testing.assert_close(values, torch.tensor(expected).double(), rtol=1e-6, atol=0)  # gains are float32
    assert valid.all()


@pytest.mark.parametrize("gain", ["linear", "exponential"])
def test_oracle_10_the_limit_is_the_metric(ragged, gain):
    scores, labels, mask = ragged
    ranking = scores.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True).unsqueeze(-2)
    ndcg, mrr = NDCG(None, gain)(ranking, labels, mask)[..., 0], MRR(None)(ranking, labels, mask)[..., 0]
    approx_ndcg = ApproxNDCG(temperature=1e-3, gain=gain).per_list(scores, labels, mask)[0]
    torch.testing.assert_close(approx_ndcg, -ndcg.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(ApproxMRR(1e-3).per_list(scores, labels, mask)[0], -mrr.double(), rtol=1e-6, atol=0)


def test_ties_share_the_mean_rank():
    ranks = approximate_ranks(torch.tensor([2.0, 5.0, 2.0, 2.0]), ALL, temperature=1e-3)
    torch.testing.assert_close(ranks, torch.tensor([3.0, 1.0, 3.0, 3.0]))


@pytest.mark.parametrize("loss", [ApproxNDCG(), ApproxMRR()])
def test_a_wide_misordering_is_flat_in_float32_only(loss):
    labels, mask = torch.tensor([1.0, 0.0]), ALL[:2]
    scores = torch.tensor([-15.0, 15.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(scores, labels, mask), scores)
    assert gradient[0] < 0 < gradient[1]
    single = scores.detach().float().requires_grad_()
    assert (torch.autograd.grad(loss(single, labels, mask), single)[0] == 0).all()  # what `saturates` says


@pytest.mark.parametrize("loss", [ApproxNDCG(), ApproxMRR()])
def test_lists_in_which_nothing_is_compared_do_not_count(loss):
    scores = torch.tensor([[1.0, 0.0], [1.0, 3.0], [0.5, 2.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    loss(scores, labels, mask).backward()
    assert (scores.grad == 0).all()


def test_only_the_first_relevant_document_learns_from_mrr():
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0], requires_grad=True)
    ranks = approximate_ranks(scores, ALL, temperature=1.0)
    loss = ApproxMRR()(scores, torch.tensor([1.0, 2.0, 0.0, 0.0]), ALL)
    assert loss.item() == pytest.approx(-1 / ranks[1].item())


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ApproxNDCG(temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ApproxMRR(temperature=-1.0)
    with pytest.raises(ValueError, match="gain='log' is not known; choose one of: linear, exponential"):
        ApproxNDCG(gain="log")
