"""ListNet against torch; sentence-transformers' in test_sentence_transformers.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses.list_net import ListNet

SCORES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([[0, 1, 0, 0, 0], [2, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).double()
MASK = torch.arange(5) < torch.tensor([[5], [4], [5], [1]])


def test_equal_to_torch_with_a_distribution_as_target():
    full = torch.ones(4, 5, dtype=torch.bool)
    expected = F.cross_entropy(SCORES / 0.5, (LABELS / 0.3).softmax(-1))
    torch.testing.assert_close(ListNet(temperature=0.5, label_temperature=0.3)(SCORES, LABELS, full), expected)


def test_padding_has_no_target_and_one_document_does_not_count():
    values, valid = ListNet().per_list(SCORES, LABELS.masked_fill(~MASK, torch.nan), MASK)
    assert valid.tolist() == [True, True, True, False]
    torch.testing.assert_close(values[1], F.cross_entropy(SCORES[1, :4], LABELS[1, :4].softmax(-1)))


def test_scores_that_are_the_labels_are_the_minimum():
    scores = (LABELS[1] + 7).requires_grad_()
    loss = ListNet()(scores, LABELS[1], MASK[1])
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.abs().max() < 1e-15
    target = LABELS[1, :4].softmax(-1)
    torch.testing.assert_close(loss, -(target * target.log()).sum())


def test_options():
    with pytest.raises(ValueError, match="label_temperature must be above 0"):
        ListNet(label_temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ListNet(temperature=-1.0)
