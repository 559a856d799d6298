"""KTO: closed forms, the divergence by enumeration of the two tokens, and what is constant."""

from __future__ import annotations

import math

import pytest
import torch

from losses.kto import KTO


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.fixture
def lists():
    """Scores, reference, labels and mask of lists of 3 and 1 documents."""
    generator = torch.Generator().manual_seed(0)
    scores, reference = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    return scores, reference, labels, torch.tensor([[True, True, True], [True, False, False]])


def evaluate(loss, scores, reference, labels, mask):
    scores = scores.detach().clone().requires_grad_()
    value = loss(scores, labels, mask, reference_scores=reference)
    return value.detach(), torch.autograd.grad(value, scores)[0]


def test_value_and_gradient_by_hand(lists):
    """z0 of the four documents, summed over both tokens; a constant in the gradient."""
    scores, reference, labels, mask = lists
    loss, num_documents = KTO(beta=0.7, desirable_weight=1.5, undesirable_weight=0.5), 4
    policy, frozen = ([sigmoid(x) for x in values[mask].tolist()] for values in (scores, reference))
    kl = [p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in zip(policy, frozen, strict=True)]
    baseline = sum(kl) / num_documents
    assert baseline > 0.05
    values, slopes = [], []
    for p, q, label in zip(policy, frozen, labels[mask].tolist(), strict=True):
        sign, weight = (1, 1.5) if label > 0 else (-1, 0.5)
        satisfied = sigmoid(0.7 * sign * (math.log(p / q) - baseline))
        values.append(weight * (1 - satisfied))
        slopes.append(-weight * sign * 0.7 * satisfied * (1 - satisfied) * (1 - p))
    value, gradient = evaluate(loss, *lists)
    assert value.item() == pytest.approx((sum(values[:3]) / 3 + values[3]) / 2)
    assert gradient[mask].tolist() == pytest.approx([*(slope / 6 for slope in slopes[:3]), slopes[3] / 2])


def test_at_the_reference_every_document_is_half_satisfied(lists):
    scores, _, labels, mask = lists
    value, gradient = evaluate(KTO(), scores, scores, labels, mask)
    assert value.item() == pytest.approx(0.5)
    assert (gradient[mask & (labels > 0)] < 0).all()
    assert (gradient[mask & (labels == 0)] > 0).all()


def test_a_list_needs_no_comparison(lists):
    assert KTO.data_requirements == ("labels",)
    scores, reference, labels, mask = lists
    alone = evaluate(KTO(), scores[1], reference[1], labels[1], mask[1])
    assert alone[1][0] < 0


def test_lists_are_coupled_by_the_divergence_alone(lists):
    scores, reference, labels, mask = lists
    moved = scores.clone()
    moved[1, 0] = reference[1, 0] + 6.0
    first, second = (evaluate(KTO(), values, reference, labels, mask)[1][0] for values in (scores, moved))
    assert not torch.allclose(first, second)
    moved[1, 0] = math.nan
    masked = mask & torch.tensor([[True], [False]])
    torch.testing.assert_close(
        evaluate(KTO(), moved, reference, labels, masked)[1][0],
        evaluate(KTO(), scores[0], reference[0], labels[0], mask[0])[1],
    )


def test_padding_has_no_part(lists):
    scores, reference, labels, mask = lists
    value, gradient = evaluate(KTO(), *lists)
    filled = [values.masked_fill(~mask, math.nan) for values in (scores, reference, labels)]
    torch.testing.assert_close(evaluate(KTO(), *filled, mask), (value, gradient))
    assert (gradient[~mask] == 0).all()
    empty = evaluate(KTO(), scores, reference, labels, torch.zeros_like(mask))
    assert empty[0] == 0
    assert (empty[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extremes(dtype):
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=dtype)
    labels, mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)
    for reference in (scores, -scores, torch.zeros_like(scores)):
        value, gradient = evaluate(KTO(), scores, reference, labels, mask)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_options():
    with pytest.raises(ValueError, match="beta must be above 0"):
        KTO(beta=0)
    with pytest.raises(ValueError, match="undesirable_weight must be at least 0"):
        KTO(undesirable_weight=-1)
