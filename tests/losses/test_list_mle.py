"""ListMLE and p-ListMLE by enumeration (oracle 8), the draws of ties, long lists.

sentence-transformers' are in test_sentence_transformers.py.
"""

from __future__ import annotations

from itertools import permutations
from statistics import NormalDist

import pytest
import torch

from losses.list_mle import ListMLE, draw_tie_breaks, list_mle
from losses.rank_net import RankNet

SCORES = torch.tensor([0.3, -0.6, 0.9, 0.1], dtype=torch.float64)
LABELS = torch.tensor([0.0, 2.0, 1.0, 0.0])
MASK = torch.ones(4, dtype=torch.bool)
KEYS = torch.tensor([101, 7, 2**62, 5])
DRAW = {"document_hashes": KEYS, "seed": 1, "step": 2}


def negative_log_likelihood(order, weights=(1.0, 1.0, 1.0, 1.0)):
    left = [SCORES[list(order[j:])] for j in range(len(order))]
    return sum(w * (s.logsumexp(0) - s[0]) for w, s in zip(weights, left, strict=True))


@pytest.mark.parametrize(
    ("position_weights", "weights"),
    [("uniform", (1, 1, 1, 1)), ("exponential", (7 / 11, 3 / 11, 1 / 11, 0))],
)
def test_the_mean_over_both_orders_of_the_tie(position_weights, weights):
    expected = [negative_log_likelihood(order, weights) for order in ((1, 2, 0, 3), (1, 2, 3, 0))]
    for ties, value in (([0, 0, 0, 1], expected[0]), ([9, 0, 0, 1], expected[1])):
        own, valid = list_mle(SCORES, LABELS, MASK, tie_breaks=torch.tensor([ties]), position_weights=position_weights)
        assert valid
        torch.testing.assert_close(own, value)
    loss = ListMLE(num_draws=4_000, position_weights=position_weights)(SCORES, LABELS, MASK, **DRAW)
    standard_error = (expected[0] - expected[1]).abs() / 2 / 4_000**0.5
    assert (loss - sum(expected) / 2).abs() < 4 * standard_error + 1e-9


@pytest.mark.parametrize("position_weights", ["uniform", "exponential"])
def test_oracle_8_two_documents_are_rank_net(position_weights):
    loss = ListMLE(temperature=0.5, position_weights=position_weights)(
        SCORES[:2], LABELS[:2], MASK[:2], **{**DRAW, "document_hashes": KEYS[:2]}
    )
    torch.testing.assert_close(loss, RankNet(sigma=2.0)(SCORES[:2], LABELS[:2], MASK[:2]))


def test_lists_of_one_label_do_not_count():
    labels = torch.stack([LABELS, torch.ones(4)])
    keys = KEYS.expand(2, 4)
    whole = ListMLE()(SCORES.expand(2, 4), labels, MASK.expand(2, 4), **{**DRAW, "document_hashes": keys})
    torch.testing.assert_close(whole, ListMLE()(SCORES, LABELS, MASK, **DRAW))


def test_every_order_is_drawn_as_often_and_anew_at_every_step():
    keys = torch.tensor([3, 1, 2])
    orders = draw_tie_breaks(keys, seed=0, step=1, num_draws=6_000).argsort(-1).tolist()
    limit = NormalDist().inv_cdf(1 - 1e-5) * (6_000 * (1 / 6) * (5 / 6)) ** 0.5
    for order in permutations(range(3)):
        assert abs(orders.count(list(order)) - 1_000) < limit
    over_steps = [draw_tie_breaks(keys, seed=0, step=step, num_draws=1).argsort(-1)[0].tolist() for step in range(600)]
    assert all(60 < over_steps.count(list(order)) < 140 for order in permutations(range(3)))
    again = draw_tie_breaks(keys, seed=0, step=1, num_draws=3)
    assert again.argsort(-1).tolist() == orders[:3]
    assert not torch.equal(draw_tie_breaks(keys, seed=1, step=1, num_draws=3), again)


@pytest.mark.parametrize("position_weights", ["uniform", "exponential"])
def test_a_list_of_3000_documents_is_finite(position_weights):
    scores = torch.linspace(-20, 20, 3_000, requires_grad=True)
    labels, mask = torch.arange(3_000) % 3, torch.ones(3_000, dtype=torch.bool)
    loss = ListMLE(position_weights=position_weights)(
        scores, labels, mask, document_hashes=torch.arange(3_000), seed=0, step=1
    )
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-3


def test_gradcheck():
    scores = SCORES.clone().requires_grad_()
    loss = ListMLE(num_draws=3, position_weights="exponential")
    assert torch.autograd.gradcheck(lambda s: loss(s, LABELS, MASK, **DRAW), (scores,))


def test_options():
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        ListMLE(num_draws=0)
    with pytest.raises(ValueError, match="choose one of: uniform, exponential"):
        ListMLE(position_weights="linear")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ListMLE(temperature=0.0)
