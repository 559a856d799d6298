"""Losses of preference pairs: closed forms at the reference, zero points, minima, expectations over flipped labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from losses.preference import DPO, IPO, ORPO, BradleyTerry, ConservativeDPO, Hinge, RobustDPO, SimPO

CHOSEN_FIRST = torch.tensor([1.0, 0.0])
BOTH = torch.tensor([True, True])
ALL = [
    BradleyTerry(0.3),
    DPO(0.5),
    ConservativeDPO(0.5, 0.2),
    RobustDPO(0.5, 0.2),
    IPO(0.5),
    Hinge(0.5),
    SimPO(),
    ORPO(),
]
by_name = pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)


def evaluate(loss, scores, labels=CHOSEN_FIRST, mask=BOTH, reference=None):
    """(value, gradient) with the reference where the loss reads one (zeros by default)."""
    scores = scores.detach().clone().requires_grad_()
    reference = torch.zeros_like(scores) if reference is None else reference
    inputs = {"reference_scores": reference} if loss.inputs else {}
    value = loss(scores, labels, mask, **inputs)
    return value.detach(), torch.autograd.grad(value, scores)[0]


def pair(margin: float) -> torch.Tensor:
    """Scores of chosen and rejected, as far from each other."""
    return torch.tensor([margin + 0.7, 0.7], dtype=torch.float64)


def test_which_losses_read_a_reference():
    assert {type(loss).__name__ for loss in ALL if not loss.inputs} == {"BradleyTerry", "SimPO", "ORPO"}
    assert all(loss.inputs == ("reference_scores",) for loss in ALL if loss.inputs)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_oracle_8_dpo_at_the_reference(beta):
    scores = pair(3.0)
    value, gradient = evaluate(DPO(beta), scores, reference=scores)
    assert value.item() == pytest.approx(math.log(2))
    torch.testing.assert_close(gradient, torch.tensor([-beta / 2, beta / 2], dtype=torch.float64))


def test_oracle_8_ipo_is_zero_at_the_references_gap_and_half_of_one_over_beta():
    reference = pair(-2.0)
    value, gradient = evaluate(IPO(0.1), pair(-2.0 + 1 / (2 * 0.1)), reference=reference)
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-12)
    value, gradient = evaluate(IPO(0.1), pair(0.0), reference=reference)
    assert value.item() == pytest.approx((2.0 - 5.0) ** 2)
    assert gradient.tolist() == pytest.approx([-6.0, 6.0])


@pytest.mark.parametrize("margin", [-30.0, -1.0, 0.0, 2.0, 30.0])
def test_formulas_of_one_pair(margin):
    """In plain Python floats; log1p and expm1 where exp alone would lose digits."""

    def softplus(x: float) -> float:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    scores, delta, flipped = pair(margin), 0.5 * (margin - 0.4), 0.2
    expected = {
        "BradleyTerry": softplus(0.3 - margin),
        "DPO": softplus(-delta),
        "ConservativeDPO": (1 - flipped) * softplus(-delta) + flipped * softplus(delta),
        "RobustDPO": ((1 - flipped) * softplus(-delta) - flipped * softplus(delta)) / (1 - 2 * flipped),
        "IPO": (margin - 0.4 - 1.0) ** 2,
        "Hinge": max(0.0, 1 - delta),
        "SimPO": softplus(1.0 - 2.0 * margin),
        "ORPO": softplus(-scores[0].item()) + 0.1 * softplus(-margin),
    }
    for loss in ALL:
        value, _ = evaluate(loss, scores, reference=pair(0.4))
        assert value.item() == pytest.approx(expected[type(loss).__name__], rel=1e-12), loss


def test_cdpo_is_lowest_where_the_share_of_flips_is_the_models():
    beta, flipped = 0.5, 0.2
    best = math.log((1 - flipped) / flipped) / beta
    _, gradient = evaluate(ConservativeDPO(beta, flipped), pair(best))
    assert gradient.abs().max().item() < 1e-12
    assert evaluate(ConservativeDPO(beta, flipped), pair(best + 1))[1][0] > 0
    assert evaluate(ConservativeDPO(beta, flipped), pair(best - 1))[1][0] < 0


def test_robust_dpo_is_dpo_in_expectation_over_flipped_preferences():
    scores, reference, flipped = pair(1.3), pair(-0.4), 0.2
    right, wrong = (
        evaluate(RobustDPO(0.5, flipped), scores, labels, reference=reference)
        for labels in (CHOSEN_FIRST, CHOSEN_FIRST.flip(0))
    )
    clean = evaluate(DPO(0.5), scores, reference=reference)
    for expected, own, other in zip(clean, right, wrong, strict=True):
        torch.testing.assert_close((1 - flipped) * own + flipped * other, expected)


def test_without_label_smoothing_both_are_dpo():
    scores, reference = pair(1.3), pair(-0.4)
    clean = evaluate(DPO(0.5), scores, reference=reference)
    for loss in (ConservativeDPO(0.5, 0.0), RobustDPO(0.5, 0.0)):
        torch.testing.assert_close(evaluate(loss, scores, reference=reference), clean)


@by_name
def test_a_graded_list_is_the_mean_over_its_pairs_of_different_labels(loss):
    generator = torch.Generator().manual_seed(3)
    scores, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([2.0, 0.0, 1.0, 1.0, 9.0])
    mask = torch.tensor([True, True, True, True, False])
    value, gradient = evaluate(loss, scores, labels, mask, reference)
    pairs = [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1)]
    alone = [evaluate(loss, scores[[i, j]], CHOSEN_FIRST, BOTH, reference[[i, j]]) for i, j in pairs]
    torch.testing.assert_close(value, torch.stack([own for own, _ in alone]).mean())
    expected = torch.zeros_like(scores)
    for (i, j), (_, own) in zip(pairs, alone, strict=True):
        expected[[i, j]] += own / len(pairs)
    torch.testing.assert_close(gradient, expected)


@by_name
def test_lists_without_a_pair_do_not_count(loss):
    scores = torch.tensor([[1.0, 0.5], [3.0, -1.0], [0.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    value, gradient = evaluate(loss, scores, labels, mask)
    alone = evaluate(loss, scores[:1], labels[:1], mask[:1])
    torch.testing.assert_close(value, alone[0])
    torch.testing.assert_close(gradient[:1], alone[1])
    assert (gradient[1:] == 0).all()


@by_name
def test_a_constant_cancels_except_in_orpo(loss):
    scores = pair(0.3)
    same = torch.allclose(evaluate(loss, scores)[0], evaluate(loss, scores + 5.0)[0])
    assert same == loss.shift_invariant
    assert loss.shift_invariant == (not isinstance(loss, ORPO))


@pytest.mark.parametrize("loss", [loss for loss in ALL if loss.inputs], ids=lambda loss: type(loss).__name__)
def test_the_reference_has_no_gradient_and_half_precision_is_not_subtracted(loss):
    """Neither 12 - 1/256 nor 8 + 1/256 is a number of bfloat16."""
    scores = torch.tensor([12.0, 8.0], dtype=torch.bfloat16, requires_grad=True)
    reference = torch.tensor([1 / 256, -1 / 256], dtype=torch.bfloat16, requires_grad=True)
    value = loss(scores, CHOSEN_FIRST, BOTH, reference_scores=reference)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss.pair_losses(torch.tensor(4 - 1 / 128)))
    value.backward()
    assert reference.grad is None


@by_name
@pytest.mark.parametrize("margin", [-2e4, -30.0, 30.0, 2e4])
def test_finite_and_steep_at_misorderings(loss, margin):
    scores = torch.tensor([margin / 2, -margin / 2])
    value, gradient = evaluate(loss, scores, reference=-scores)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if margin < 0:
        assert gradient[0] < -0.01


@by_name
def test_gradcheck(loss):
    generator = torch.Generator().manual_seed(4)
    scores, reference = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    labels, mask = torch.tensor([[0, 2, 1, 0, 0]] * 3), torch.arange(5) < torch.tensor([[5], [3], [4]])
    inputs = {"reference_scores": reference} if loss.inputs else {}
    assert torch.autograd.gradcheck(lambda s: loss(s, labels, mask, **inputs), (scores.requires_grad_(),))


def test_orpo_is_the_odds_ratio_of_probabilities():
    """The paper's own terms, eqs. 4 to 7, from P = sigmoid(s)."""
    scores = torch.tensor([0.9, -0.4], dtype=torch.float64)
    odds = scores.sigmoid() / (1 - scores.sigmoid())
    expected = -scores.sigmoid()[0].log() - 0.1 * F.logsigmoid((odds[0] / odds[1]).log())
    torch.testing.assert_close(evaluate(ORPO(0.1), scores)[0], expected)


@pytest.mark.parametrize("kind", [DPO, ConservativeDPO, RobustDPO, IPO, Hinge, SimPO, ORPO])
def test_beta_must_be_positive(kind):
    with pytest.raises(ValueError, match="beta must be above 0, got 0"):
        kind(beta=0.0)


@pytest.mark.parametrize("kind", [ConservativeDPO, RobustDPO])
@pytest.mark.parametrize(("value", "message"), [(0.5, "below 0.5"), (-0.1, "at least 0.0"), (math.nan, "finite")])
def test_label_smoothing_is_a_share_below_one_half(kind, value, message):
    with pytest.raises(ValueError, match=f"^label_smoothing must be .*{message}"):
        kind(label_smoothing=value)


def test_margins_are_finite():
    with pytest.raises(ValueError, match=r"^margin must be a finite number"):
        BradleyTerry(math.inf)
    with pytest.raises(ValueError, match=r"^gamma must be a finite number"):
        SimPO(gamma=math.nan)
