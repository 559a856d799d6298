"""MarginMSE against sentence-transformers; oracle 12: zero at student = teacher."""

from __future__ import annotations

import torch

from losses.margin_mse import MarginMSE

NAN = torch.nan


def gradient(value, scores):
    return torch.autograd.grad(value, scores)[0]


def test_sentence_transformers():
    """One positive, the first, and four negatives; embeddings of one dimension, whose products are the scores."""
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    generator = torch.Generator().manual_seed(3)
    scores, teacher = torch.randn(2, 6, 5, generator=generator).unbind()
    scores.requires_grad_()
    embeddings = [torch.ones(6, 1), *scores.T.unsqueeze(-1)]
    expected = MarginMSELoss(model=None).compute_loss_from_embeddings(embeddings, teacher)
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]).expand(6, 5)
    value = MarginMSE()(scores, labels, torch.ones(6, 5, dtype=torch.bool), teacher_scores=teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, scores), gradient(expected, scores))


def test_several_positives_grades_and_missing_scores_by_hand():
    scores = torch.tensor([1.0, 4.0, 2.0, 9.0, 0.0, NAN], requires_grad=True)
    labels = torch.tensor([2.0, 1.0, 0.0, 1.0, 0.0, NAN])
    teacher = torch.tensor([3.0, 1.0, 0.5, NAN, 1.0, 2.0])
    mask = torch.tensor([True, True, True, True, True, False])
    pairs = [(0, 1), (0, 2), (0, 4), (1, 2), (1, 4)]
    expected = sum(((scores[i] - scores[j]) - (teacher[i] - teacher[j])) ** 2 for i, j in pairs) / 5
    value = MarginMSE()(scores, labels, mask, teacher_scores=teacher)
    torch.testing.assert_close(value, expected)
    result = gradient(value, scores)
    torch.testing.assert_close(result, gradient(expected, scores))
    assert result[3] == 0  # the teacher did not score it


def test_oracle_12_zero_at_the_teacher():
    teacher = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    labels = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, 1.0]).expand(4, 6)
    scores = (teacher + torch.tensor([[0.0], [3.0], [-7.0], [0.5]])).requires_grad_()
    value = MarginMSE()(scores, labels, torch.ones(4, 6, dtype=torch.bool), teacher_scores=teacher)
    assert 0 <= value < 1e-10
    assert gradient(value, scores).abs().max() < 1e-6


def test_lists_without_a_pair_that_the_teacher_scored_do_not_count():
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    teacher = torch.tensor([[NAN, 1.0, 2.0], [1.0, 2.0, 3.0], [NAN, NAN, NAN], [1.0, 0.0, NAN]])
    scores = torch.ones(4, 3, requires_grad=True)
    value = MarginMSE()(scores, labels, torch.ones(4, 3, dtype=torch.bool), teacher_scores=teacher)
    assert value == 1.0  # of the last alone
    assert (gradient(value, scores)[:3] == 0).all()
