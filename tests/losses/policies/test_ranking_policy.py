"""The Plackett-Luce GRPO: oracle 3 (estimators against enumeration), oracle 4 (ratio 1 = REINFORCE with the group
baseline, the clipped branch gives zero), oracle 5 (the divergence in the reward has its whole gradient)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from losses.math.plackett_luce import Rankings, position_distributions
from losses.policies.advantages import advantages, reward_to_go_advantages
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.rewards import MAP, MRR, NDCG, Recall

SMALL = PlackettLuceGRPO(num_generations=8, temperature=0.7, reward=NDCG(k=2))

# Oracle 3


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward_to_go": False},
        {"reward_to_go": False, "importance_sampling_level": "sequence_product"},
        {"gradient_estimator": "pl_rank_2"},
    ],
    ids=str,
)
def test_oracle_3_unbiased(options, k, enumeration, gradient_samples, z_scores):
    samples = gradient_samples(replace(SMALL, k=k, **options))
    exact = enumeration.reward_gradient(NDCG(k=2), 2)
    assert z_scores(samples, -exact).abs().max() < 4
    assert z_scores(samples, 0 * exact).abs().max() > 10


def test_oracle_3_several_rewards(enumeration, gradient_samples, z_scores):
    for estimator in ("policy_gradient", "pl_rank_2"):
        loss = replace(SMALL, reward=[NDCG(k=2), Recall(k=1)], reward_weights=[0.5, 2], gradient_estimator=estimator)
        exact = 0.5 * enumeration.reward_gradient(NDCG(k=2), 2) + 2 * enumeration.reward_gradient(Recall(k=1), 2)
        assert z_scores(gradient_samples(loss), -exact).abs().max() < 4


@pytest.mark.parametrize("reward", [MRR(k=3), MAP(), Recall(k=2)])
def test_oracle_3_other_rewards(reward, enumeration, gradient_samples, z_scores):
    exact = enumeration.reward_gradient(reward, 4)
    assert z_scores(gradient_samples(replace(SMALL, reward=reward)), -exact).abs().max() < 4


@pytest.mark.parametrize("reward_to_go", [True, False])
def test_oracle_3_group_mean_shrinks_by_one_over_g(reward_to_go, enumeration, gradient_samples, z_scores):
    loss = replace(SMALL, num_generations=4, advantage_estimator="none", reward_to_go=reward_to_go)
    samples = gradient_samples(loss)
    exact = enumeration.reward_gradient(NDCG(k=2), 2)
    assert z_scores(samples, -0.75 * exact).abs().max() < 4
    assert z_scores(samples, -exact).abs().max() > 4


def test_reward_to_go_has_less_variance(gradient_samples):
    to_go, whole = (gradient_samples(replace(SMALL, reward_to_go=option)).var(0).sum() for option in (True, False))
    assert to_go < 0.8 * whole


# Oracle 4


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_product"])
@pytest.mark.parametrize("estimator", ["none", "group", "rloo"])
def test_oracle_4_ratio_one_is_reinforce_with_the_group_baseline(level, estimator, lists, evaluate):
    scores, labels, mask, *_ = lists
    loss = replace(SMALL, advantage_estimator=estimator, reward_to_go=False, importance_sampling_level=level)
    rankings = loss.sample(scores, mask, [1, 2, 3])
    _, gradient, statistics = evaluate(loss, scores, labels, mask, rankings, scores, None)
    reward = NDCG(k=2)(rankings.rankings, labels, mask)
    leaf = scores.clone().requires_grad_()
    log_probs = position_distributions(leaf, mask, rankings.rankings, temperature=0.7).log_probs.sum(-1)
    reinforce = -(advantages(reward, estimator) * log_probs)[:2].mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(reinforce, leaf)[0])
    assert gradient.abs().max() > 0.01
    assert statistics["clip_fraction"] == 0


@pytest.fixture
def two_documents(evaluate):
    """two_documents(scores, old scores, **options) -> (value, gradient, statistics).

    Both rankings of two documents, the first the better one: advantages +1 and -1 by leave-one-out.
    """

    def run(scores, old, **options):
        loss = replace(PlackettLuceGRPO(num_generations=2, reward=Recall(k=1)), **options)
        rankings = Rankings(torch.tensor([[[0], [1]]]), torch.ones(1, 1, 1, dtype=torch.bool))
        tensors = torch.tensor([scores]), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
        return evaluate(loss, *tensors, rankings, torch.tensor([old]), None)

    return run


def test_oracle_4_clipped_branch_has_no_gradient(two_documents):
    value, gradient, statistics = two_documents([2.0, 0.0], [0.0, 0.0])
    assert (gradient == 0).all()
    assert statistics["clip_fraction"] == 1
    torch.testing.assert_close(value, torch.tensor(-(1.2 - 0.8) / 2))
    value, gradient, statistics = two_documents([0.0, 2.0], [0.0, 0.0])
    assert gradient[0, 0] < -0.01
    assert statistics["clip_fraction"] == 0
    value, _, _ = two_documents([2.0, 0.0], [0.0, 0.0], epsilon_high=0.5)
    torch.testing.assert_close(value, torch.tensor(-(1.5 - 0.8) / 2))


def test_delta_caps_the_ratio_of_bad_rankings(two_documents):
    free = two_documents([0.0, 3.0], [0.0, 0.0])
    capped = two_documents([0.0, 3.0], [0.0, 0.0], delta=1.5)
    ratio = torch.tensor([0.0, 3.0]).softmax(0) * 2
    torch.testing.assert_close(free[0], (ratio[1] - ratio[0]) / 2)
    torch.testing.assert_close(capped[0], (1.5 - ratio[0]) / 2)
    assert 0 < capped[1].abs().max() < free[1].abs().max()


# Oracle 5


@pytest.mark.parametrize("options", [{}, {"kl_estimator": "k1"}, {"kl_estimator": "k1", "reward_to_go": False}])
def test_oracle_5_divergence_in_the_reward_gives_its_whole_gradient(options, enumeration, gradient_samples, z_scores):
    loss = replace(SMALL, k=3, beta=0.5, kl_in="reward", **options)
    exact = -enumeration.reward_gradient(NDCG(k=2), 3) + 0.5 * enumeration.kl_gradient(3)
    assert z_scores(gradient_samples(loss), exact).abs().max() < 4


def test_a_choice_is_penalised_for_the_divergence_after_it_only(lists, evaluate):
    scores, labels, mask, _, reference = (values[:1] for values in lists)
    loss = replace(SMALL, k=3, beta=0.5, kl_in="reward")
    rankings = loss.sample(scores, mask, [1])
    _, gradient, _ = evaluate(loss, scores, labels, mask, rankings, scores, reference)
    leaf = scores.clone().requires_grad_()
    policy, other = (position_distributions(s, mask, rankings.rankings, temperature=0.7) for s in (leaf, reference))
    kl = policy.kl(other)
    rewards = NDCG(k=2).per_position(rankings.rankings, labels, mask)
    rewards[..., :2] -= 0.5 * kl[..., 1:].detach()
    by_hand = 0.5 * kl - reward_to_go_advantages(rewards, "rloo") * policy.log_probs
    torch.testing.assert_close(gradient, torch.autograd.grad(by_hand.sum(-1).mean(), leaf)[0])


@pytest.mark.parametrize("kl_estimator", ["k1", "rao_blackwell"])
@pytest.mark.parametrize("reward_to_go", [True, False])
def test_the_divergence_in_the_reward_is_that_of_the_policy_that_sampled(kl_estimator, reward_to_go, lists, evaluate):
    """At ratio != 1 the advantages are those of the old policy: they do not move with the scores."""
    scores, labels, mask, old, reference = (values[:1] for values in lists)
    loss = replace(SMALL, k=3, beta=0.5, kl_in="reward", kl_estimator=kl_estimator, reward_to_go=reward_to_go)
    rankings = loss.sample(old, mask, [1])
    value, gradient, _ = evaluate(loss, scores, labels, mask, rankings, old, reference)
    leaf = scores.clone().requires_grad_()
    policy, sampler, other = (
        position_distributions(s, mask, rankings.rankings, temperature=0.7) for s in (leaf, old, reference)
    )
    rewards = NDCG(k=2).per_position(rankings.rankings, labels, mask)
    if kl_estimator == "k1":
        rewards = rewards - 0.5 * (sampler.log_probs - other.log_probs)
    else:
        rewards[..., :2] -= 0.5 * sampler.kl(other)[..., 1:]
    to_go, whole = reward_to_go_advantages(rewards, "rloo"), advantages(rewards.sum(-1), "rloo").unsqueeze(-1)
    advantage = to_go if reward_to_go else whole
    ratio = (policy.log_probs - sampler.log_probs).exp()
    assert (ratio - 1).abs().max() > 0.1
    by_hand = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    if kl_estimator == "rao_blackwell":
        by_hand = by_hand + 0.5 * policy.kl(other)
    by_hand = by_hand.sum(-1).mean()
    torch.testing.assert_close(value, by_hand.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(by_hand, leaf)[0])


def test_oracle_5_divergence_in_the_loss_lacks_the_choices_that_led_there(enumeration, gradient_samples, z_scores):
    for k, complete in ((1, True), (3, False)):
        loss = replace(SMALL, reward=NDCG(k=1), k=k, beta=0.5)
        exact = -enumeration.reward_gradient(NDCG(k=1), k) + 0.5 * enumeration.kl_gradient(k)
        assert (z_scores(gradient_samples(loss), exact).abs().max() < 4) == complete


def test_oracle_5_corrected_k3_is_the_reverse_divergence(enumeration, gradient_samples, z_scores):
    loss = replace(SMALL, reward=NDCG(k=1), k=1, beta=0.5, kl_estimator="k3")
    exact = -enumeration.reward_gradient(NDCG(k=1), 1) + 0.5 * enumeration.kl_gradient(1)
    assert z_scores(gradient_samples(loss), exact).abs().max() < 4
    assert z_scores(gradient_samples(replace(loss, use_bias_correction_kl=False)), exact).abs().max() > 4


def test_entropy_bonus_flattens(lists, evaluate):
    scores, labels, mask, *_ = lists
    rankings = SMALL.sample(scores, mask, [1, 2, 3])
    plain, bonus = (
        evaluate(replace(SMALL, entropy_coef=coef), scores, labels, mask, rankings, scores, None) for coef in (0, 0.1)
    )
    torch.testing.assert_close(bonus[0], plain[0] - 0.1 * plain[2]["entropy"])
    step = scores - 0.01 * (bonus[1] - plain[1])
    flatter = evaluate(SMALL, step, labels, mask, rankings, scores, None)[2]["entropy"]
    assert flatter > plain[2]["entropy"]


# Statistics, sampling, what is left out


def test_statistics(lists, evaluate):
    scores, labels, mask, old, reference = lists
    loss = replace(SMALL, reward=[NDCG(k=2), MRR(), MAP(), Recall(k=3)], reward_weights=[1, 0.5, 0.5, 2])
    rankings = loss.sample(old, mask, [1, 2, 3])
    statistics = evaluate(loss, scores, labels, mask, rankings, old, reference)[2]
    names = ["nDCG@2", "RR", "AP", "R@3"]
    assert list(statistics) == [
        "reward_mean", "reward_std", "frac_reward_zero_std", *(f"reward_mean/{name}" for name in names),
        "entropy", "clip_fraction", "kl",
    ]  # fmt: skip
    weighted = sum(w * statistics[f"reward_mean/{name}"] for w, name in zip([1, 0.5, 0.5, 2], names, strict=True))
    torch.testing.assert_close(statistics["reward_mean"], weighted)
    expected = NDCG(k=2)(rankings.rankings, labels, mask)[:2].mean()
    torch.testing.assert_close(statistics["reward_mean/nDCG@2"], expected)
    torch.testing.assert_close(statistics["frac_reward_zero_std"], torch.tensor(1 / 3))
    assert all(value.ndim == 0 and not value.requires_grad for value in statistics.values())


def test_skip_zero_std_leaves_the_list_out_of_the_denominator(lists, evaluate):
    scores, labels, mask, old, _ = lists
    rankings = SMALL.sample(old, mask, [1, 2, 3])
    same = rankings.rankings.clone()
    same[1] = same[1, 0]
    rankings = Rankings(same, rankings.position_mask)
    kept, skipped = (
        evaluate(replace(SMALL, skip_zero_std=skip), scores, labels, mask, rankings, old, None)[1]
        for skip in (False, True)
    )
    assert (kept[1] == 0).all()
    torch.testing.assert_close(skipped, 2 * kept)


def test_sampling_is_a_function_of_the_key_and_the_depth_of_the_reward(lists):
    scores, _, mask, *_ = lists
    first, again, other = (SMALL.sample(scores, mask, seeds) for seeds in ([1, 2, 3], [1, 2, 3], [4, 2, 3]))
    assert first.rankings.shape == (3, 8, 2)
    assert torch.equal(first.rankings, again.rankings)
    assert not torch.equal(first.rankings[0], other.rankings[0])
    assert torch.equal(first.rankings[1:], other.rankings[1:])
    assert SMALL.sample(scores.requires_grad_(), mask, [1, 2, 3]).rankings.shape == (3, 8, 2)
    assert replace(SMALL, k=4).sample(scores, mask, [1, 2, 3]).rankings.shape == (3, 8, 4)
    assert replace(SMALL, reward=MRR()).sample(scores, mask, [1, 2, 3]).rankings.shape == (3, 8, 5)


def test_leading_axes_are_free(lists, evaluate):
    scores, labels, mask, old, reference = lists
    rankings = SMALL.sample(old, mask, [1, 2, 3])
    flat = evaluate(SMALL, scores, labels, mask, rankings, old, reference)
    stacked = Rankings(rankings.rankings[None], rankings.position_mask[None])
    nested = evaluate(SMALL, scores[None], labels[None], mask[None], stacked, old[None], reference[None])
    torch.testing.assert_close(nested[1][0], flat[1])
    single = Rankings(rankings.rankings[0], rankings.position_mask[0])
    alone = evaluate(SMALL, scores[0], labels[0], mask[0], single, old[0], reference[0])
    torch.testing.assert_close(alone[1] / 2, flat[1][0])


def test_a_divergence_needs_reference_scores(lists, evaluate):
    scores, labels, mask, old, _ = lists
    loss = replace(SMALL, beta=0.5)
    assert loss.inputs == ("reference_scores",)
    assert not SMALL.inputs
    with pytest.raises(ValueError, match=r"beta=0\.5 needs reference_scores"):
        evaluate(loss, scores, labels, mask, loss.sample(old, mask, [1, 2, 3]), old, None)
