"""Every variant of the Plackett-Luce GRPO: oracle 9 (sums of gradients, padding, permutation, batch composition, finite
values and gradients), gradcheck, and oracle 4 (equal rewards give zero)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from losses.plackett_luce import Rankings
from losses.ranking_policy import PlackettLuceGRPO
from losses.rewards import MAP, MRR, NDCG, Recall

SMALL = PlackettLuceGRPO(num_generations=8, temperature=0.7, reward=NDCG(k=2))
VARIANTS = {
    "default": SMALL,
    "pl_rank_2": replace(SMALL, gradient_estimator="pl_rank_2"),
    "whole reward": replace(SMALL, reward_to_go=False),
    "sequence": replace(SMALL, reward_to_go=False, importance_sampling_level="sequence", loss_type="grpo"),
    "sequence_product": replace(SMALL, reward_to_go=False, importance_sampling_level="sequence_product"),
    "cispo": replace(SMALL, loss_type="cispo", epsilon_high=5.0),
    "dr_grpo, delta": replace(SMALL, loss_type="dr_grpo", delta=3.0),
    "bnpo, batch": replace(SMALL, loss_type="bnpo", advantage_estimator="batch"),
    "dapo, group, skip": replace(SMALL, loss_type="dapo", advantage_estimator="group", skip_zero_std=True),
    "kl loss": replace(SMALL, beta=0.5),
    "kl reward": replace(SMALL, beta=0.5, kl_in="reward"),
    "k1 reward": replace(SMALL, beta=0.5, kl_in="reward", kl_estimator="k1", reward_to_go=False),
    "k2": replace(SMALL, beta=0.5, kl_estimator="k2"),
    "k3": replace(SMALL, beta=0.5, kl_estimator="k3"),
    "entropy": replace(SMALL, entropy_coef=0.1),
    "rewards": replace(SMALL, reward=[NDCG(k=2), MRR(), MAP(), Recall(k=3)], reward_weights=[1, 0.5, 0.5, 2]),
}
every_variant = pytest.mark.parametrize("loss", VARIANTS.values(), ids=VARIANTS)


@every_variant
def test_oracle_4_equal_rewards_give_zero_but_for_the_divergence(loss, lists, evaluate):
    if loss.gradient_estimator == "pl_rank_2" or loss.entropy_coef:
        pytest.skip("it learns from more than the differences of the rewards")
    scores, labels, mask, _, reference = lists
    rankings = loss.sample(scores, mask, [1, 2, 3])
    same = Rankings(rankings.rankings[:, :1].expand_as(rankings.rankings), rankings.position_mask)
    _, gradient, statistics = evaluate(loss, scores, labels, mask, same, scores, reference)
    assert statistics["frac_reward_zero_std"] == 1
    assert (gradient == 0).all() == (loss.beta == 0 or loss.kl_estimator == "k1")


@every_variant
def test_gradient_sums_to_zero_and_padding_has_none(loss, lists, evaluate):
    if loss.gradient_estimator == "pl_rank_2":
        pytest.skip("a sample of PL-Rank-2 need not sum to 0: it does in expectation")
    scores, labels, mask, old, reference = lists
    rankings = loss.sample(old, mask, [1, 2, 3])
    _, gradient, _ = evaluate(loss, scores, labels, mask, rankings, old, reference)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(3), atol=1e-6, rtol=0)
    assert (gradient[~mask] == 0).all()
    assert (gradient[2] == 0).all()
    assert (gradient[:2].abs().amax(-1) > 1e-4).all()


@every_variant
def test_padding(loss, lists, evaluate):
    scores, labels, mask, old, reference = lists
    rankings = loss.sample(old, mask, [1, 2, 3])
    plain = evaluate(loss, scores, labels, mask, rankings, old, reference)
    wider = [F.pad(values, (0, 3), value=torch.nan) for values in (scores, labels, old, reference)]
    wide_mask = F.pad(mask, (0, 3))
    again = loss.sample(wider[2], wide_mask, [1, 2, 3])
    positions = rankings.rankings.shape[-1]
    filled = rankings.position_mask.expand_as(rankings.rankings)
    assert torch.equal(again.rankings[..., :positions][filled], rankings.rankings[filled])
    padded = evaluate(loss, wider[0], wider[1], wide_mask, again, wider[2], wider[3])
    torch.testing.assert_close(padded[0], plain[0])
    torch.testing.assert_close(padded[1][:, :5], plain[1])
    torch.testing.assert_close(padded[2], plain[2])


@every_variant
def test_permutation_of_documents(loss, lists, evaluate):
    scores, labels, mask, old, reference = lists
    rankings = loss.sample(old, mask, [1, 2, 3])
    plain = evaluate(loss, scores, labels, mask, rankings, old, reference)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = Rankings(order.argsort()[rankings.rankings], rankings.position_mask)
    shuffled = [values[:, order] for values in (scores, labels, mask)]
    other = evaluate(loss, *shuffled, moved, old[:, order], reference[:, order])
    torch.testing.assert_close(other[0], plain[0])
    torch.testing.assert_close(other[1], plain[1][:, order])


@every_variant
def test_batch_composition(loss, lists, evaluate):
    """Where every list counts the same (not over all positions, nor a std of the batch), so does its gradient."""
    if loss.loss_type in ("bnpo", "dapo", "cispo") or loss.advantage_estimator == "batch" or loss.entropy_coef:
        pytest.skip("the denominator is that of the batch")
    scores, labels, mask, old, reference = lists
    rankings = loss.sample(old, mask, [1, 2, 3])
    together = evaluate(loss, scores, labels, mask, rankings, old, reference)
    for row, size in ((0, 5), (1, 3)):
        own = [values[row : row + 1, :size] for values in (scores, labels, mask, old, reference)]
        sampled = loss.sample(own[3], own[2], [row + 1])
        alone = evaluate(loss, *own[:3], sampled, *own[3:])
        torch.testing.assert_close(alone[1][0] / 2, together[1][row, :size])


@pytest.mark.parametrize("case", ["extreme", "one document", "masked", "no label", "half"])
@every_variant
def test_finite(loss, case, lists, evaluate):
    scores, labels, mask, old, reference = lists
    if case == "extreme":
        scores, reference = scores.sign() * 1e4, -scores.sign() * 1e4
    elif case == "one document":
        mask = torch.arange(5).expand(3, 5) == 2
    elif case == "masked":
        mask = torch.zeros_like(mask)
    elif case == "no label":
        labels = torch.zeros_like(labels)
    else:
        scores, old, reference = scores.bfloat16(), old.bfloat16(), reference.bfloat16()
    rankings = loss.sample(old, mask, [1, 2, 3])
    for behaviour in (old, scores):
        value, gradient, statistics = evaluate(loss, scores, labels, mask, rankings, behaviour, reference)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert all(statistic.isfinite() for statistic in statistics.values())
        if case in ("one document", "masked", "no label"):
            assert value == 0
            assert (gradient == 0).all()


@every_variant
def test_gradcheck(loss, lists, evaluate):
    if loss.on_policy_only or loss.loss_type == "cispo" or loss.kl_in == "reward":
        pytest.skip("its value is not the integral of its gradient")
    scores, labels, mask, old, reference = (
        values.double() if values.is_floating_point() else values for values in lists
    )
    rankings = loss.sample(old, mask, [1, 2, 3])

    def value(scores):
        return loss(scores, labels, mask, rankings=rankings, old_scores=old, reference_scores=reference)[0]

    assert torch.autograd.gradcheck(value, (scores.requires_grad_(),))
