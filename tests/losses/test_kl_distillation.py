"""KL distillation against torch and sentence-transformers; oracle 12: zero at student = teacher."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses.kl_distillation import KLDistillation

NAN = torch.nan


@pytest.fixture
def scored():
    scores, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(6)).unbind()
    return scores.requires_grad_(), 3 * teacher, torch.ones(4, 6, dtype=torch.bool)


def distil(scores, teacher, mask, **options):
    return KLDistillation(**options)(scores, torch.full_like(teacher, NAN), mask, teacher_scores=teacher)


def assert_same(value, expected, scores):
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0.01


@pytest.mark.parametrize("temperatures", [(1.0, None), (2.0, None), (0.5, 2.0)])
def test_sentence_transformers(scored, temperatures):
    """Embeddings of one dimension, whose products are the scores."""
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    scores, teacher, mask = scored
    temperature, teacher_temperature = temperatures
    options = {"temperature": temperature, "teacher_temperature": teacher_temperature}
    embeddings = [torch.ones(4, 1), *scores.T.unsqueeze(-1)]
    expected = DistillKLDivLoss(model=None, **options).compute_loss_from_embeddings(embeddings, teacher)
    assert_same(distil(scores, teacher, mask, **options), expected, scores)


def test_torch_with_padding_and_missing_scores(scored):
    scores, teacher, mask = scored
    teacher[0, 2], teacher[1, 4:] = NAN, NAN
    mask[1, 0], mask[2, 3:] = False, False
    expected = torch.zeros(())
    for row in range(4):
        own = mask[row] & ~teacher[row].isnan()
        student, target = ((values[row][own] / 2).log_softmax(-1) for values in (scores, teacher))
        expected = expected + 4 * F.kl_div(student, target, reduction="sum", log_target=True) / 4
    assert_same(distil(scores.masked_fill(~mask, NAN), teacher, mask, temperature=2.0), expected, scores)


def test_oracle_12_zero_at_the_teacher(scored):
    _, teacher, mask = scored
    scores = (teacher + torch.tensor([[0.0], [3.0], [-7.0], [0.5]])).requires_grad_()
    value = distil(scores, teacher, mask, temperature=0.7)
    assert abs(value) < 1e-6
    assert torch.autograd.grad(value, scores)[0].abs().max() < 1e-6


def test_a_certain_teacher_is_cross_entropy(scored):
    scores, _, mask = scored
    target = torch.tensor([0, 5, 2, 2])
    teacher = 1e4 * F.one_hot(target, 6).float()
    assert_same(distil(scores, teacher, mask), F.cross_entropy(scores, target), scores)


def test_lists_of_fewer_than_two_scores_do_not_count(scored):
    scores, teacher, mask = scored
    teacher[0], teacher[1, 1:] = NAN, NAN
    gradient = torch.autograd.grad(distil(scores, teacher, mask), scores)[0]
    assert (gradient[:2] == 0).all()
    both = torch.autograd.grad(distil(scores[2:], teacher[2:], mask[2:]), scores)[0]
    torch.testing.assert_close(gradient, both)


def test_options():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        KLDistillation(temperature=0.0)
    with pytest.raises(ValueError, match="teacher_temperature must be above 0"):
        KLDistillation(teacher_temperature=-1.0)


def test_the_gradient_is_the_students_temperature_times_the_difference(scored):
    scores, teacher, mask = scored
    value = distil(scores, teacher, mask, temperature=2.0, teacher_temperature=5.0)
    expected = 2 * ((scores / 2).softmax(-1) - (teacher / 5).softmax(-1)) / 4
    torch.testing.assert_close(torch.autograd.grad(value, scores)[0], expected.detach())
