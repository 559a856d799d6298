"""Numbers as they come: large labels, distant policies, infinite teachers, against references in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from engines.protocol import NotFinite
from losses.approx import ApproxNDCG
from losses.kl_distillation import KLDistillation
from losses.lambda_loss import LambdaLoss
from losses.listwise_preference import LiPOLambda
from losses.math.exponentials import bounded_exp, exponential_gains
from losses.math.kl import k3, ratio_times_k3
from losses.math.plackett_luce import Rankings
from losses.neural_ndcg import NeuralNDCG
from losses.pi_rank import PiRank
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.policies.surrogate import clipped_surrogate, importance_ratio
from losses.rewards import NDCG
from losses.unique_softmax import UniqueSoftmax
from trainers.nonfinite import remedy

SCHEMES = ("lambda_rank", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2pp")
SCALE_FREE = [*(LambdaLoss(scheme=scheme) for scheme in SCHEMES), LiPOLambda(), ApproxNDCG(), NeuralNDCG(), PiRank()]
GENERATOR = torch.Generator().manual_seed(3)
SCORES, REFERENCE = torch.randn(2, 3, 6, generator=GENERATOR)
MASK = torch.arange(6) < torch.tensor([[6], [4], [2]])
GRADES = torch.tensor([[0, 3, 1, 2, 0, 1], [2, 0, 1, 0, 9, 9], [1, 0, 9, 9, 9, 9]]).float()


def evaluated(loss, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient of the scores."""
    scores = SCORES.clone().requires_grad_()
    inputs = {"reference_scores": REFERENCE} if "reference_scores" in loss.inputs else {}
    value = loss(scores, labels, MASK, **inputs)
    return value.detach(), torch.autograd.grad(value, scores)[0]


def reference_gains(labels: Tensor) -> Tensor:
    """(2^label - 1) / ideal DCG in float64, from exact integers."""
    rows = []
    for row, filled in zip(labels.tolist(), MASK.tolist(), strict=True):
        gains = [2 ** int(label) - 1 if real else 0 for label, real in zip(row, filled, strict=True)]
        largest = max(gains)
        ratios = torch.tensor([gain / largest for gain in gains], dtype=torch.float64)  # exact, whatever their size
        discounts = 1 / torch.log2(torch.arange(6, dtype=torch.float64) + 2)
        rows.append(ratios / (ratios.sort(descending=True).values * discounts).sum())
    return torch.stack(rows)


@pytest.mark.parametrize("factor", [1, 10, 40, 43, 100, 1000, 100_000])
def test_gains_of_labels_of_any_size(factor: int) -> None:
    labels = GRADES * factor
    found = NDCG(k=None, gain="exponential").gains(labels, MASK)
    torch.testing.assert_close(found.double(), reference_gains(labels), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("loss", SCALE_FREE, ids=str)
@pytest.mark.parametrize("factor", [43, 64, 128, 1000, 1e30])
def test_exponential_gain_of_large_labels(loss, factor: float) -> None:
    """From label 64 on, smaller grades weigh nothing: the loss is that of the best grade alone."""
    value, gradient = evaluated(loss, GRADES * factor)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=-1) > 0).all(), "every list teaches"
    if isinstance(loss, ApproxNDCG):
        best = (GRADES.masked_fill(~MASK, -1).amax(dim=-1, keepdim=True) == GRADES).float()
        torch.testing.assert_close((value, gradient), evaluated(loss, best))


@pytest.mark.parametrize("loss", [*SCALE_FREE, UniqueSoftmax()], ids=str)
def test_a_constant_of_all_labels(loss) -> None:
    """Documents of labels 200 and 201 are compared like any others, with gains of 1 to 2."""
    value, gradient = evaluated(loss, GRADES + 200)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("label", [49.0, 50.0, 51.0, 127.0, 128.0, 1e6])
def test_unique_softmax_of_large_labels(label: float) -> None:
    labels = torch.tensor([[label, 0.0, 0.0]])
    scores = torch.tensor([[0.5, 1.0, -1.0]], requires_grad=True)
    value = UniqueSoftmax()(scores, labels, labels > -1)
    (gradient,) = torch.autograd.grad(value, scores)
    exact = -scores.detach().double().log_softmax(dim=-1)[0, 0] * 2.0 ** min(label, 50.0)
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-5, atol=0)
    assert gradient.square().sum().isfinite(), "the norm can be clipped"


def test_small_labels_keep_their_gains_to_the_last_bit() -> None:
    labels = torch.tensor([[0.0, 1.0, 2.5, 0.3, 17.0, 50.0]])
    assert torch.equal(exponential_gains(labels), torch.exp2(labels) - 1)
    assert exponential_gains(labels[:, :0]).shape == (1, 0)


def derivative(function, at: float) -> tuple[float, float]:
    point = torch.tensor(at, requires_grad=True)
    value = function(point)
    return value.item(), torch.autograd.grad(value, point)[0].item()


@pytest.mark.parametrize("gap", [-1e4, -100.0, -1.0, 1.0, 19.0, 20.0, 21.0, 60.0, 100.0, 1e4, 1e8])
def test_k3_pulls_towards_the_reference_at_every_distance(gap: float) -> None:
    """gap: log p_ref - log p."""
    value, slope = derivative(lambda log_prob: k3(log_prob, torch.tensor(0.0)), -gap)
    assert 0 <= value < float("inf")
    assert slope * gap < 0, "a choice that the reference prefers becomes more probable, another one less"
    if gap <= 20:
        point = torch.tensor(gap, dtype=torch.float64)
        assert value == pytest.approx(float(point.exp() - point - 1), rel=1e-5)
        assert slope == pytest.approx(float(1 - point.exp()), rel=1e-5)


@pytest.mark.parametrize("gap", [-1e4, -30.0, -1.0, 0.5, 15.0, 21.0, 60.0, 1e4])
@pytest.mark.parametrize("moved", [-30.0, -1.0, 0.0, 0.5, 15.0, 40.0])
def test_the_ratio_times_k3_does_too(gap: float, moved: float) -> None:
    """moved: log p - log p_old. The exact gradient is -(p / p_old) gap."""
    value, slope = derivative(lambda p: ratio_times_k3(p, torch.tensor(0.0), torch.tensor(-gap - moved)), -gap)
    assert 0 <= value < float("inf")
    assert slope * gap < 0 or moved == -30.0
    if moved <= 20:
        assert slope == pytest.approx(-(2.718281828459045**moved) * gap, rel=1e-3)
    if moved <= 0.5 and abs(gap) <= 15:
        log_prob = torch.tensor(-gap, dtype=torch.float64, requires_grad=True)
        plain = (log_prob - (-gap - moved)).exp() * k3(log_prob, torch.zeros((), dtype=torch.float64))
        assert value == pytest.approx(plain.item(), rel=1e-3, abs=1e-3)
        assert slope == pytest.approx(torch.autograd.grad(plain, log_prob)[0].item(), rel=1e-3)


@pytest.mark.parametrize("gap", [5.0, 25.0, 80.0])
@pytest.mark.parametrize("correction", [True, False])
def test_the_divergence_of_a_policy_far_from_its_reference(gap: float, correction: bool) -> None:
    """The document that only the reference likes gets a higher score, at any distance."""
    scores = torch.tensor([[-gap, 0.0, 0.0]], requires_grad=True)
    policy = PlackettLuceGRPO(
        num_generations=2, reward=NDCG(k=1), k=1, beta=1.0, kl_estimator="k3", use_bias_correction_kl=correction
    )
    labels, mask = torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    first = Rankings(torch.zeros(1, 2, 1, dtype=torch.int64), torch.ones(1, 1, 1, dtype=torch.bool))
    value, _ = policy(
        scores,
        labels,
        mask,
        actions=first,
        old_scores=scores.detach(),
        reference_scores=torch.tensor([[0.0, -gap, -gap]]),
    )
    (gradient,) = torch.autograd.grad(value, scores)
    assert value.isfinite()
    assert gradient[0, 0] < 0
    assert gradient.isfinite().all()


def test_a_choice_that_became_far_more_probable_and_is_bad_has_a_gradient() -> None:
    log_ratio = torch.tensor([[[0.0], [10.0], [30.0], [200.0]]], requires_grad=True)
    ratio = importance_ratio(log_ratio, torch.ones(1, 1, 1, dtype=torch.bool), "token")
    loss = clipped_surrogate(ratio, -torch.ones(1, 4, 1), epsilon=0.2, epsilon_high=0.2, delta=None).loss
    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert (gradient > 0).all()
    assert gradient.isfinite().all()


def test_bounded_exp_is_the_exponential_up_to_its_limit() -> None:
    values = torch.linspace(-100, 20, 50, dtype=torch.float64)
    assert torch.equal(bounded_exp(values), values.exp())
    assert torch.autograd.gradcheck(bounded_exp, torch.tensor([-3.0, 19.9, 20.1, 50.0]).double().requires_grad_())


def test_a_teacher_that_excludes_documents() -> None:
    """A score of -inf is the probability 0."""
    teacher = torch.tensor([[1.0, -torch.inf, 0.0], [2.0, 0.5, -torch.inf]])
    scores = torch.tensor([[0.3, 0.9, 0.1], [0.0, 1.0, 5.0]], requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss = KLDistillation(temperature=0.7)
    value = loss(scores, mask.float(), mask, teacher_scores=teacher)
    (gradient,) = torch.autograd.grad(value, scores)
    target, student = (teacher.double() / 0.7).softmax(-1), (scores.detach().double() / 0.7).log_softmax(-1)
    exact = 0.49 * (torch.special.xlogy(target, target) - target * student).sum(-1).mean()
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-5, atol=0)
    assert gradient.isfinite().all()


def test_the_advice_fits_the_cause() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    no_teacher = torch.full((1, 2), torch.nan)
    batch = SimpleNamespace(labels=torch.tensor([[3e38, 0.0]]), mask=mask, teacher_scores=no_teacher)
    of_labels = remedy(batch, NotFinite("x", largest_output=3.0))
    assert "labels up to 3e+38" in of_labels
    assert "learning_rate" not in of_labels
    assert "teacher" not in of_labels
    for error in (NotFinite("x"), NotFinite("x", largest_output=1e20)):
        assert remedy(batch, error) == "lower trainer.learning_rate"


def test_large_labels_give_the_ranking_reward_too() -> None:
    policy = PlackettLuceGRPO(num_generations=4, reward=NDCG(k=2, gain="exponential"))
    labels = torch.tensor([[900.0, 300.0, 0.0]])
    rankings = torch.tensor([[[0, 1], [1, 0], [2, 1], [1, 2]]])
    rewards = policy.reward(rankings, labels, labels > -1)
    torch.testing.assert_close(rewards, torch.tensor([[1.0, 0.6309298, 0.0, 0.0]]))
