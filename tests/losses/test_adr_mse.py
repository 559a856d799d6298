"""ADR-MSE against sentence-transformers, and its minimum."""

from __future__ import annotations

import math

import pytest
import torch

from losses.adr_mse import ADRMSE


class Scorer:
    """As much of a cross-encoder as sentence-transformers' loss asks for: texts are the places of their scores."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, scores):
        self.scores = scores

    def preprocess(self, pairs, **options):
        return {"rows": torch.tensor([int(document) for _, document in pairs])}

    def __call__(self, features):
        return {"scores": self.scores[features["rows"]]}


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_sentence_transformers(temperature):
    """Lists of one length: there the means over lists and over all documents are one."""
    from sentence_transformers.cross_encoder.losses import ADRMSELoss

    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    labels = torch.tensor([[0.0, 2.0, 1.0, 0.0, 0.0], [3.0, 2.0, 1.0, 0.5, 0.0], [1.0, 0.0, 1.0, 0.0, 0.0]])
    theirs = ADRMSELoss(Scorer(scores.flatten()), alpha=1 / temperature)
    texts = [[str(5 * row + place) for place in range(5)] for row in range(3)]
    expected = theirs((["query"] * 3, texts), list(labels))
    value = ADRMSE(temperature)(scores, labels, torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)


def test_by_hand_with_padding_and_a_tie():
    """Labels 1, 0, 0 have the ranks 1 and twice 2.5; equal scores all have the approximate rank 2."""
    scores = torch.zeros(4).masked_fill(torch.tensor([False, True, False, False]), torch.nan)
    labels = torch.tensor([0.0, torch.nan, 1.0, 0.0])
    value = ADRMSE()(scores, labels, ~labels.isnan())
    assert value.item() == pytest.approx((1.0 + 2 * 0.25 / math.log2(3.5)) / 3)


def test_zero_where_the_ranks_are_right():
    labels, mask = torch.tensor([2.0, 1.0, 0.0, 0.0]), torch.ones(4, dtype=torch.bool)
    assert ADRMSE(temperature=1e-2)(labels, labels, mask) == pytest.approx(0.0, abs=1e-9)
    assert ADRMSE(temperature=1e-2)(-labels, labels, mask) > 1


def test_lists_of_unlike_length_weigh_alike():
    scores, labels = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    each = [ADRMSE()(scores[row], labels[row], mask[row]) for row in (0, 1)]
    torch.testing.assert_close(ADRMSE()(scores, labels, mask), (each[0] + each[1]) / 2)


def test_a_list_of_one_label_does_not_count():
    _, valid = ADRMSE().per_list(torch.randn(2, 3), torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert not valid.any()


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ADRMSE(temperature=0.0)
