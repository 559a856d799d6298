"""The LambdaLoss framework: oracle 7 by hand, ranks, k, extremes; compare test_sentence_transformers.py."""

from __future__ import annotations

import math

import pytest
import torch

from losses.lambda_loss import SCHEMES, LambdaLoss, current_ranks

SCORES = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
LABELS = torch.tensor([0.0, 1.0, 2.0])
MASK = torch.tensor([True, True, True])


def value_and_gradient(loss, scores, labels=LABELS, mask=MASK):
    scores = scores.clone().requires_grad_()
    value = loss(scores, labels, mask)
    return value.detach(), torch.autograd.grad(value, scores)[0]


def test_oracle_7_lambda_rank_by_hand():
    value, gradient = value_and_gradient(LambdaLoss("lambda_rank"), SCORES)
    assert value.item() == pytest.approx(1.106870, abs=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([0.4382, -0.0216, -0.4166]).double(), atol=5e-5, rtol=0)
    assert value_and_gradient(LambdaLoss("lambda_rank", reduction="mean"), SCORES)[0].item() == pytest.approx(
        0.36896, abs=5e-6
    )


@pytest.mark.parametrize(
    ("scheme", "mu"), [("ndcg_loss1", None), ("ndcg_loss2", None), ("ndcg_loss2pp", None), ("ndcg_loss2pp", 3.0)]
)
def test_the_other_schemes_by_hand(scheme, mu):
    """At the same list: the sum over pairs in Python's own floats."""
    discount = [0, *(1 / math.log2(1 + rank) for rank in range(1, 5))]
    gains = [(2**label - 1) / 3.6309297535714578 for label in (0, 1, 2)]  # 3 + 1/log2(3)

    def weight(i: int, j: int) -> float:
        if scheme == "ndcg_loss1":
            return gains[i] * discount[i + 1]
        if i <= j:
            return 0.0
        delta = discount[i - j] - discount[i - j + 1]
        swap = abs(discount[i + 1] - discount[j + 1])
        factor = delta if scheme == "ndcg_loss2" else (10 if mu is None else mu) * delta + swap
        return factor * (gains[i] - gains[j])

    expected = sum(weight(i, j) * math.log1p(math.exp(i - j)) for i in range(3) for j in range(3))
    assert LambdaLoss(scheme, mu=mu)(SCORES, LABELS, MASK).item() == pytest.approx(expected, abs=1e-6)


def test_of_equal_scores_the_less_relevant_comes_first_and_padding_last():
    scores = torch.tensor([1.0, torch.nan, 1.0, 5.0, 1.0])
    labels, mask = torch.tensor([2.0, torch.nan, 0.0, 0.0, 1.0]), torch.tensor([True, False, True, True, True])
    assert current_ranks(scores, labels, mask).tolist() == [4, 5, 2, 1, 3]


def test_a_relevant_document_below_k_is_still_pulled_up():
    _, gradient = value_and_gradient(LambdaLoss("lambda_rank", k=1), SCORES)
    assert gradient[2] < -0.1
    _, whole = value_and_gradient(LambdaLoss("lambda_rank"), SCORES)
    assert gradient[1] != whole[1]  # the pair of ranks 2 and 3 is left out


def test_the_ideal_has_k_documents():
    labels = torch.tensor([0.0, 1.0, 1.0])
    one, two = (LambdaLoss("ndcg_loss1", k=k).per_list(SCORES, labels, MASK)[0].item() for k in (1, None))
    ideal = 1 + 1 / math.log2(3)
    pair_of_2_and_3 = sum(  # beyond k = 1, with the pairs of a document and itself
        discount * math.log1p(math.exp(-difference))
        for discount, difference in ((1 / math.log2(3), 0), (1 / math.log2(3), 1), (0.5, -1), (0.5, 0))
    )
    assert one == pytest.approx(two * ideal - pair_of_2_and_3, abs=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("misordering", [30.0, 200.0, 2e4])
def test_a_misordering_keeps_its_gradient(scheme, misordering):
    scores = torch.tensor([misordering, 0.0, torch.nan])
    _, gradient = value_and_gradient(
        LambdaLoss(scheme), scores, torch.tensor([0.0, 1.0, torch.nan]), torch.tensor([True, True, False])
    )
    weights = {
        "lambda_rank": 1 - 1 / math.log2(3),
        "ndcg_loss1": 1 / math.log2(3),
        "ndcg_loss2": 1 - 1 / math.log2(3),
        "ndcg_loss2pp": 11 * (1 - 1 / math.log2(3)),
    }
    torch.testing.assert_close(gradient, weights[scheme] * torch.tensor([1.0, -1.0, 0.0]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lists_of_one_label_do_not_count(scheme):
    labels = torch.stack([LABELS, torch.zeros(3), torch.ones(3)])
    whole = LambdaLoss(scheme)(SCORES.expand(3, 3), labels, MASK.expand(3, 3))
    torch.testing.assert_close(whole, LambdaLoss(scheme)(SCORES, LABELS, MASK))


def test_linear_gain():
    labels = torch.tensor([0.0, 1.0, 3.0])
    linear = LambdaLoss(gain="linear")(SCORES, labels, MASK)
    torch.testing.assert_close(linear, LambdaLoss(gain="exponential")(SCORES, LABELS, MASK))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "ndcg"}, "choose one of: lambda_rank, ndcg_loss1"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"scheme": "lambda_rank", "mu": 5.0}, "mu=5.0 belongs to scheme='ndcg_loss2pp', not 'lambda_rank'"),
        ({"mu": -1.0}, "mu must be at least 0"),
        ({"k": 0}, "k must be at least 1"),
        ({"gain": "exp"}, "choose one of: linear, exponential"),
        ({"reduction": "max"}, "choose one of: sum, mean"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        LambdaLoss(**options)
