"""Pointwise MSE against torch and sentence-transformers, by hand, and in the sizes that a teacher's scale gives it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses.contracts import LossInputs, compute_loss, reads_raw_scores, standardizes_teacher
from losses.pointwise_mse import PointwiseMSE

NAN = torch.nan
FULL = torch.ones(4, 6, dtype=torch.bool)


@pytest.fixture
def scored():
    scores, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(6)).unbind()
    return scores.requires_grad_(), 7 * teacher - 3


def distil(scores, teacher, mask=FULL, **options):
    inputs = {"teacher_deviation": torch.tensor(7.0)} if options else {}
    labels = torch.full_like(teacher, NAN)
    return PointwiseMSE(**options)(scores, labels, mask, teacher_scores=teacher, **inputs)


def assert_same(value, expected, scores):
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0.01


def test_torch(scored):
    scores, teacher = scored
    assert_same(distil(scores, teacher), F.mse_loss(scores, teacher), scores)


def test_sentence_transformers(scored):
    """Its cross-encoder loss of pairs, whose logits are given."""
    theirs = pytest.importorskip("sentence_transformers.cross_encoder")
    scores, teacher = scored

    class GivenLogits(theirs.CrossEncoder):
        num_labels, device = 1, torch.device("cpu")

        def __init__(self):
            torch.nn.Module.__init__(self)

        def preprocess(self, pairs, **options):
            return {}

        def forward(self, features):
            return {"scores": scores.view(-1, 1)}

    loss = theirs.losses.MSELoss(GivenLogits())
    expected = loss([["q"] * 24, ["d"] * 24], teacher.view(-1))
    assert_same(distil(scores, teacher), expected, scores)


def test_ragged_lists_weigh_alike_and_missing_scores_are_left_out(scored):
    scores, teacher = scored
    mask = torch.arange(6) < torch.tensor([[6], [4], [2], [3]])
    teacher[0, 2], teacher[1, 1], teacher[3] = NAN, -torch.inf, NAN
    expected = torch.zeros(())
    for row in range(3):  # the teacher scored none of the last
        own = mask[row] & teacher[row].isfinite()
        expected = expected + F.mse_loss(scores[row][own], teacher[row][own]) / 3
    assert_same(distil(scores.masked_fill(~mask, NAN), teacher, mask), expected, scores)


def test_standardised_errors_are_in_deviations(scored):
    scores, teacher = scored
    assert_same(distil(scores, teacher, standardize=True), F.mse_loss(scores / 7, teacher / 7), scores)


def test_zero_at_the_teacher(scored):
    _, teacher = scored
    scores = teacher.clone().requires_grad_()
    value = distil(scores, teacher)
    assert value == 0
    assert not torch.autograd.grad(value, scores)[0].any()


def test_what_it_declares():
    assert PointwiseMSE().inputs == ("teacher_scores",)
    assert not standardizes_teacher(PointwiseMSE())
    assert standardizes_teacher(PointwiseMSE(standardize=True))
    assert reads_raw_scores(PointwiseMSE())


def test_the_deviation_is_required(scored):
    scores, teacher = scored
    inputs = LossInputs(labels=teacher, mask=FULL, scores=scores, teacher_scores=teacher)
    with pytest.raises(ValueError, match="PointwiseMSE needs teacher_deviation, which this run does not have"):
        compute_loss(PointwiseMSE(standardize=True), inputs)
