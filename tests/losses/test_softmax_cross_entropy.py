"""Supervised listwise softmax cross-entropy against torch, and the properties of the list contract (oracle 9)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses.softmax_cross_entropy import SoftmaxCrossEntropy


def softmax_cross_entropy(scores, labels, mask, temperature=1.0):
    return SoftmaxCrossEntropy(temperature)(scores, labels, mask)


@pytest.fixture
def lists():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([[6], [4], [5]])
    labels = torch.tensor([[0, 1, 0, 0, 0, 0], [2, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).double()
    return scores, labels, mask


def test_one_relevant_document_is_torch_cross_entropy():
    scores = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 7, 3, 3, 1])
    loss = softmax_cross_entropy(scores, F.one_hot(target, 8), torch.ones(5, 8, dtype=torch.bool), temperature=0.5)
    torch.testing.assert_close(loss, F.cross_entropy(scores / 0.5, target))


def test_graded_labels_weigh_as_they_are(lists):
    scores, labels, mask = lists
    first = -scores[0].log_softmax(0)[1]
    own = scores[1, :4].log_softmax(0)
    torch.testing.assert_close(softmax_cross_entropy(scores, labels, mask), (first - 2 * own[0] - own[2]) / 2)


def test_oracle_9_gradient_sums_to_zero_and_padding_has_none(lists):
    scores, labels, mask = lists
    (gradient,) = torch.autograd.grad(softmax_cross_entropy(scores, labels, mask), scores)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(3, dtype=torch.float64))
    assert gradient[0].abs().max() > 0.01
    assert (gradient[~mask] == 0).all()
    assert (gradient[2] == 0).all()


def test_oracle_9_permutation_padding_and_batch_composition(lists):
    scores, labels, mask = lists
    whole = softmax_cross_entropy(scores, labels, mask)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(softmax_cross_entropy(scores[:, order], labels[:, order], mask[:, order]), whole)
    garbage = torch.full((3, 2), torch.nan, dtype=torch.float64)
    wider = [torch.cat([values, garbage], -1) for values in (scores, labels)]
    padded = softmax_cross_entropy(*wider, F.pad(mask, (0, 2)))
    torch.testing.assert_close(padded, whole)
    each = [softmax_cross_entropy(scores[i], labels[i], mask[i]) for i in range(3)]
    torch.testing.assert_close((each[0] + each[1]) / 2, whole)


def test_gradcheck(lists):
    scores, labels, mask = lists
    assert torch.autograd.gradcheck(lambda s: softmax_cross_entropy(s, labels, mask, temperature=0.3), (scores,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("degenerate", ["masked", "no label", "one document", "extreme"])
def test_finite_value_and_gradient(degenerate, dtype):
    scores = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    labels, mask = torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    if degenerate == "masked":
        mask = ~mask
    elif degenerate == "no label":
        labels = labels * 0
    elif degenerate == "one document":
        mask = torch.tensor([[False, True, False]])
    loss = softmax_cross_entropy(scores, labels, mask, temperature=0.05)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert (loss == 0) == (degenerate != "extreme")


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        SoftmaxCrossEntropy(temperature=0.0)
