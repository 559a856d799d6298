"""Binary cross-entropy against torch's, and what `pos_weight=auto` does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses.bce import BinaryCrossEntropy

SCORES = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([[0, 2, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0]]).double()
FULL = torch.ones(3, 6, dtype=torch.bool)
RAGGED = torch.arange(6) < torch.tensor([[6], [4], [2]])


@pytest.mark.parametrize("pos_weight", [None, 1.0, 3.5])
def test_lists_of_one_length_are_torchs(pos_weight):
    weight = None if pos_weight is None else torch.tensor(pos_weight)
    expected = F.binary_cross_entropy_with_logits(SCORES, (LABELS > 0).double(), pos_weight=weight)
    torch.testing.assert_close(BinaryCrossEntropy(pos_weight)(SCORES, LABELS, FULL), expected)


def test_ragged_lists_weigh_alike():
    per_list = [
        F.binary_cross_entropy_with_logits(SCORES[i, :n], (LABELS[i, :n] > 0).double())
        for i, n in enumerate(RAGGED.sum(-1).tolist())
    ]
    torch.testing.assert_close(BinaryCrossEntropy(None)(SCORES, LABELS, RAGGED), sum(per_list) / 3)


@pytest.mark.parametrize("pos_weight", [None, 3.5])
@pytest.mark.parametrize("mask", [FULL, RAGGED])
def test_soft_labels_are_torchs_targets(pos_weight, mask):
    """Value and gradient, list by list: torch's mean over a list's documents."""
    targets = torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = None if pos_weight is None else torch.tensor(pos_weight)
    scores, others = SCORES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    loss = BinaryCrossEntropy(pos_weight, soft_labels=True)(scores, targets.masked_fill(~mask, torch.nan), mask)
    expected = sum(
        F.binary_cross_entropy_with_logits(others[i, :n], targets[i, :n], pos_weight=weight) / 3
        for i, n in enumerate(mask.sum(-1).tolist())
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, at)[0] for value, at in ((loss, scores), (expected, others)))
    )


def test_soft_labels_of_0_and_1_are_relevance():
    labels = (LABELS > 0).double()
    torch.testing.assert_close(
        BinaryCrossEntropy(None, soft_labels=True)(SCORES, labels, RAGGED),
        BinaryCrossEntropy(None)(SCORES, LABELS, RAGGED),
    )


def test_soft_labels_need_labels_from_0_to_1_and_no_counts_of_relevant_documents():
    assert BinaryCrossEntropy().data_requirements == ("labels",)
    assert BinaryCrossEntropy(None, soft_labels=True).data_requirements == ("unit_labels",)
    with pytest.raises(ValueError, match="pos_weight=auto counts relevant documents; with soft_labels=true give"):
        BinaryCrossEntropy("auto", soft_labels=True)


def test_auto_is_the_lists_own_negatives_per_positive():
    """2; none to weigh; and a list of positives alone (the third, cut to two documents), which keeps weight 1."""
    values, valid = BinaryCrossEntropy("auto").per_list(SCORES, LABELS, RAGGED)
    assert valid.all()
    expected = [
        BinaryCrossEntropy(weight)(SCORES[i], LABELS[i], RAGGED[i]) for i, weight in enumerate([2.0, None, None])
    ]
    torch.testing.assert_close(values, torch.stack(expected))
    (gradient,) = torch.autograd.grad(
        BinaryCrossEntropy("auto")(zeros := torch.zeros(6, requires_grad=True), LABELS[0], FULL[0]), zeros
    )
    torch.testing.assert_close(gradient[LABELS[0] > 0].sum(), -gradient[LABELS[0] == 0].sum())  # of equal weight


def test_an_empty_list_does_not_count():
    mask = torch.tensor([[True] * 6, [False] * 6, [False] * 6])
    whole = BinaryCrossEntropy("auto")(SCORES.masked_fill(~mask, torch.nan), LABELS, mask)
    torch.testing.assert_close(whole, BinaryCrossEntropy("auto")(SCORES[0], LABELS[0], mask[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores_keep_their_gradient(dtype):
    scores = torch.tensor([-1e4, 1e4, 1e4, -30.0], dtype=dtype, requires_grad=True)
    loss = BinaryCrossEntropy(None)(scores, torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(4, dtype=torch.bool))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.item(), (2e4 + 30) / 4, rtol=0.01, atol=0)
    assert torch.autograd.grad(loss, scores)[0].tolist() == [-0.25, 0.25, 0, -0.25]


@pytest.mark.parametrize(
    ("pos_weight", "message"),
    [("aut", "pos_weight='aut' is not known; choose a number, auto or null"), (0.0, "pos_weight must be above 0")],
)
def test_options(pos_weight, message):
    with pytest.raises(ValueError, match=message):
        BinaryCrossEntropy(pos_weight)


TEACHER = 4 * torch.randn(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_teachers_probabilities_are_targets():
    """Value and gradient, list by list, without what the teacher has not scored; the minimum is the entropy."""
    teacher = TEACHER.clone()
    teacher[0, 1] = torch.nan
    scores, others = SCORES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    loss = BinaryCrossEntropy(None, teacher_labels=True, teacher_temperature=2.0)
    value = loss(scores, torch.full_like(LABELS, torch.nan), RAGGED, teacher_scores=teacher)
    kept = RAGGED & ~teacher.isnan()
    expected = sum(
        F.binary_cross_entropy_with_logits(others[i][kept[i]], (teacher[i][kept[i]] / 2).sigmoid()) / 3
        for i in range(3)
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(each, at)[0] for each, at in ((value, scores), (expected, others)))
    )
    at_teacher = (TEACHER / 2).requires_grad_()
    lowest = loss(at_teacher, LABELS, FULL, teacher_scores=TEACHER)
    torch.testing.assert_close(lowest, torch.distributions.Bernoulli(logits=TEACHER / 2).entropy().mean())
    assert torch.autograd.grad(lowest, at_teacher)[0].abs().max() < 1e-12


def test_soft_labels_are_divided_by_the_largest():
    targets = torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaled = BinaryCrossEntropy(None, soft_labels=True, largest_label=3.0)
    torch.testing.assert_close(
        scaled(SCORES, 3 * targets, RAGGED), BinaryCrossEntropy(None, soft_labels=True)(SCORES, targets, RAGGED)
    )
    assert scaled.data_requirements == ("levels",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_labels": True, "teacher_labels": True}, "the targets are either labels or a teacher's"),
        ({"teacher_labels": True, "pos_weight": "auto"}, "with teacher_labels=true give a number or null"),
        ({"largest_label": 3.0}, "largest_label=3 divides soft labels: set soft_labels=true too"),
        ({"largest_label": 0.0, "soft_labels": True}, "largest_label must be above 0"),
        ({"teacher_temperature": -1.0}, "teacher_temperature must be above 0"),
    ],
)
def test_options_of_targets(options, message):
    with pytest.raises(ValueError, match=message):
        BinaryCrossEntropy(**options)
