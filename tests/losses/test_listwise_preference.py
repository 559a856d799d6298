"""PL-DPO and LiPO-lambda: the listwise losses of the implicit rewards, and DPO where a list is a pair."""

from __future__ import annotations

import math

import pytest
import torch

from losses.lambda_loss import LambdaLoss
from losses.list_mle import ListMLE
from losses.listwise_preference import PLDPO, LiPOLambda
from losses.preference import DPO

BETA = 0.6


@pytest.fixture
def lists():
    generator = torch.Generator().manual_seed(0)
    scores, reference = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 2, 1, 0, 0], [1, 0, 0, 0, 0], [1, 3, 2, 0, 0]]).float()
    return scores, reference, labels, torch.arange(5) < torch.tensor([[5], [3], [4]])


def evaluate(loss, scores, labels, mask, reference=None):
    scores = scores.detach().clone().requires_grad_()
    inputs = {"reference_scores": reference, "seed": 7, "step": 3}
    inputs["document_hashes"] = torch.arange(scores.numel()).reshape(scores.shape)
    value = loss(scores, labels, mask, **{name: inputs[name] for name in loss.inputs})
    return value.detach(), torch.autograd.grad(value, scores)[0]


def test_oracle_8_pl_dpo_of_two_documents_is_dpo(lists):
    scores, reference, labels, mask = lists
    pairs = [values[:, :2] for values in (scores, labels, mask, reference)]
    torch.testing.assert_close(evaluate(PLDPO(BETA), *pairs), evaluate(DPO(BETA), *pairs))


def test_pl_dpo_by_hand():
    """Rafailov et al., appendix A.3: a product over positions of softmaxes over those not yet ranked."""
    scores, reference = torch.tensor([0.3, -0.6, 0.9]), torch.tensor([0.5, 0.4, -0.2])
    h = [BETA * (s - r) for s, r in zip(scores.tolist(), reference.tolist(), strict=True)]
    by_label = [h[2], h[0], h[1]]
    expected = -sum(x - math.log(sum(math.exp(y) for y in by_label[i:])) for i, x in enumerate(by_label))
    value, _ = evaluate(PLDPO(BETA), scores, torch.tensor([1.0, 0.0, 2.0]), scores.isfinite(), reference)
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "of_rewards"),
    [
        (PLDPO(BETA, num_draws=2), ListMLE(num_draws=2)),
        (LiPOLambda(BETA, k=2, gain="linear"), LambdaLoss("lambda_rank", k=2, gain="linear")),
        (LiPOLambda(BETA), LambdaLoss("lambda_rank")),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_they_are_the_listwise_losses_of_the_implicit_rewards(loss, of_rewards, lists):
    scores, reference, labels, mask = lists
    value, gradient = evaluate(loss, scores, labels, mask, reference)
    expected = evaluate(of_rewards, BETA * (scores - reference), labels, mask)
    torch.testing.assert_close((value, gradient), (expected[0], BETA * expected[1]))
    assert gradient.abs().max() > 0.01
    assert not torch.allclose(value, evaluate(loss, scores, labels, mask, reference.flip(-1))[0])


def test_lipo_lambda_by_hand():
    """Two documents, the wrong one first by h though not by s: abs(G_1 - G_0) = 1, ranks 2 and 1, ideal DCG 1."""
    scores, reference = torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.0])
    value, gradient = evaluate(
        LiPOLambda(BETA), scores, torch.tensor([1.0, 0.0]), torch.tensor([True, True]), reference
    )
    weight, delta = 1 - 1 / math.log2(3), BETA * -1.5
    assert value.item() == pytest.approx(weight * math.log1p(math.exp(-delta)))
    slope = BETA * weight / (1 + math.exp(delta))
    assert gradient.tolist() == pytest.approx([-slope, slope])


@pytest.mark.parametrize("loss", [PLDPO(), LiPOLambda()], ids=lambda loss: type(loss).__name__)
def test_padding_reference_and_precision(loss, lists):
    scores, reference, labels, mask = lists
    plain = evaluate(loss, scores, labels, mask, reference)
    filled = [values.masked_fill(~mask, math.nan) for values in (scores, labels, reference)]
    torch.testing.assert_close(evaluate(loss, filled[0], filled[1], mask, filled[2]), plain)
    assert evaluate(loss, scores.bfloat16(), labels, mask, reference.bfloat16())[0].dtype == torch.float32
    extreme = evaluate(loss, 1e4 * scores.float().sign(), labels, mask, -1e4 * reference.float().sign())
    assert extreme[0].isfinite()
    assert extreme[1].isfinite().all()


def test_options():
    for kind in (PLDPO, LiPOLambda):
        with pytest.raises(ValueError, match="beta must be above 0"):
            kind(beta=0)
    with pytest.raises(ValueError, match="num_draws must be at least 1"):
        PLDPO(num_draws=0)
    with pytest.raises(ValueError, match="k must be at least 1"):
        LiPOLambda(k=0)
    with pytest.raises(ValueError, match="gain='log' is not known; choose one of: linear, exponential"):
        LiPOLambda(gain="log")
