"""Plackett-Luce: oracle 1 (sums over enumeration, Gumbel chi-square), oracle 2 (truncated = full gradient), oracle 5
(the Rao-Blackwell divergence and the entropy = enumeration), and invariances."""

from __future__ import annotations

import math

import pytest
import torch

from losses.math.plackett_luce import gumbel_noise, position_distributions, sample_rankings
from losses.rewards import NDCG


def random_lists(seed: int = 0, n: int = 7):
    """Two lists, of n and of n - 3 documents, their masks, and rankings of them."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, n, generator=generator, dtype=torch.float64)
    mask = torch.arange(n) < torch.tensor([[n], [n - 3]])
    return scores, mask


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_oracle_1_probabilities_sum_to_one(enumeration, k):
    assert enumeration.policy(enumeration.scores, k).log_probs.sum(-1).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_log_prob_is_the_product_of_softmaxes(enumeration):
    logits = enumeration.scores / enumeration.temperature
    for row, ranking in enumerate(enumeration.rankings(3).tolist()):
        left, expected = [0, 1, 2, 3], 0.0
        for document in ranking:
            expected += (logits[document] - logits[left].logsumexp(0)).item()
            left.remove(document)
        actual = enumeration.policy(enumeration.scores, 3).log_probs[row].sum().item()
        assert actual == pytest.approx(expected, abs=1e-12)


def test_oracle_1_gumbel_frequencies(enumeration):
    from scipy.stats import chisquare

    draws = 50_000
    mask = enumeration.mask[None]
    noise = gumbel_noise([7], draws, mask)
    rankings, _ = sample_rankings(enumeration.scores[None], mask, noise, temperature=enumeration.temperature, k=2)
    digits = rankings[0] @ torch.tensor([10, 1])
    possible = enumeration.rankings(2)
    observed = [(digits == number).sum().item() for number in (possible @ torch.tensor([10, 1])).tolist()]
    expected = enumeration.policy(enumeration.scores, 2).log_probs.sum(-1).exp() * draws
    assert sum(observed) == draws
    assert chisquare(observed, expected.numpy()).pvalue > 0.001


def test_oracle_2_truncated_equals_full_gradient(enumeration):
    reward = NDCG(k=2)
    truncated, full = (enumeration.reward_gradient(reward, k) for k in (2, 4))
    assert full.abs().max() > 0.01
    torch.testing.assert_close(truncated, full, atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_oracle_5_rao_blackwell_divergence_and_entropy_are_the_enumerated_ones(enumeration, k):
    policy = enumeration.policy(enumeration.scores, k)
    reference = enumeration.policy(enumeration.reference_scores, k)
    log_prob, reference_log_prob = policy.log_probs.sum(-1), reference.log_probs.sum(-1)
    probability = log_prob.exp()
    exact_kl = (probability * (log_prob - reference_log_prob)).sum()
    exact_entropy = -(probability * log_prob).sum()
    assert exact_kl > 0.1
    torch.testing.assert_close((probability * policy.kl(reference).sum(-1)).sum(), exact_kl)
    torch.testing.assert_close((probability * policy.entropy().sum(-1)).sum(), exact_entropy)


def test_first_position_is_the_softmax_over_the_list():
    scores, mask = random_lists()
    reference = torch.randn(2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rankings = torch.tensor([[0, 1], [2, 3]]).expand(2, 2, 2)
    policy, other = (position_distributions(s, mask, rankings, temperature=0.5) for s in (scores, reference))
    filled = (scores / 0.5).masked_fill(~mask, -torch.inf), (reference / 0.5).masked_fill(~mask, -torch.inf)
    p, q = (torch.distributions.Categorical(logits=logits) for logits in filled)
    torch.testing.assert_close(policy.entropy()[..., 0], p.entropy()[:, None].expand(2, 2))
    kl = (p.probs * (p.logits - q.logits).masked_fill(~mask, 0)).sum(-1)
    torch.testing.assert_close(policy.kl(other)[..., 0], kl[:, None].expand(2, 2))


def test_gradcheck():
    scores, mask = random_lists()
    rankings, _ = sample_rankings(scores, mask, gumbel_noise([1, 2], 3, mask), temperature=1.0, k=5)
    reference = position_distributions(scores.flip(-1), mask, rankings, temperature=0.8)

    def outputs(scores):
        policy = position_distributions(scores, mask, rankings, temperature=0.8)
        return policy.log_probs, policy.entropy(), policy.kl(reference)

    assert torch.autograd.gradcheck(outputs, (scores.requires_grad_(),))


def test_padding_and_other_lists_change_no_draw():
    _, mask = random_lists()
    noise = gumbel_noise([5, 6], 4, mask)
    alone = gumbel_noise([6], 4, mask[1:, :4])
    assert torch.equal(noise[1:, :, :4], alone)
    assert (noise[1, :, 4:] == 0).all()
    assert not torch.equal(noise[0, :, :4], noise[1, :, :4])
    more = gumbel_noise([5, 6], 9, mask)
    assert torch.equal(more[:, :4], noise)


def test_draws_follow_the_documents_wherever_the_padding_is():
    noise = gumbel_noise([3], 2, torch.tensor([[True, False, True, True]]))
    packed = gumbel_noise([3], 2, torch.tensor([[True, True, True]]))
    assert torch.equal(noise[0][:, [0, 2, 3]], packed[0])


def test_a_key_is_needed_for_each_list():
    with pytest.raises(ValueError, match="2 lists need as many seeds, got 1"):
        gumbel_noise([1], 4, torch.ones(2, 3, dtype=torch.bool))


def test_padding_comes_last_and_counts_for_nothing():
    scores, mask = random_lists()
    scores = torch.where(mask, scores, torch.nan)
    rankings, filled = sample_rankings(scores, mask, gumbel_noise([1, 2], 5, mask), temperature=0.1, k=7)
    assert filled[:, 0].tolist() == [[True] * 7, [True] * 4 + [False] * 3]
    assert (rankings[1, :, :4] < 4).all()
    policy = position_distributions(scores, mask, rankings, temperature=0.1)
    cut = position_distributions(scores[1, :4], mask[1, :4], rankings[1, :, :4], temperature=0.1)
    for padded, own in ((policy.log_probs, cut.log_probs), (policy.entropy(), cut.entropy())):
        torch.testing.assert_close(padded[1, :, :4], own)
        assert (padded[1, :, 4:] == 0).all()


def test_the_last_choice_is_certain():
    scores, mask = random_lists()
    rankings, _ = sample_rankings(scores, mask, gumbel_noise([1, 2], 5, mask), temperature=1.0, k=7)
    policy = position_distributions(scores, mask, rankings, temperature=1.0)
    assert (policy.log_probs[0, :, 6] == 0).all()
    assert (policy.log_probs[1, :, 3] == 0).all()
    torch.testing.assert_close(policy.entropy()[1, :, 3], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_extreme_scores_are_finite(scale, temperature):
    scores = torch.tensor([[scale, -scale, 0.0, scale, 3.0], [scale, scale, scale, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    rankings = torch.tensor([[4, 1, 0, 2, 3], [2, 0, 1, 3, 4]]).unsqueeze(1)
    policy = position_distributions(scores, mask, rankings, temperature=temperature)
    reference = position_distributions(-scores.detach(), mask, rankings, temperature=temperature)
    for values in (policy.log_probs, policy.entropy(), policy.kl(reference)):
        assert values.isfinite().all()
        (gradient,) = torch.autograd.grad(values.sum(), scores, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient[1, 3:] == 0).all()


def test_sampling_large_scores_keeps_the_noise():
    """Equal scores of 1e7: added to them in float32, the noise would be rounded away and the first index always win."""
    scores, mask = torch.full((1, 3), 1e7), torch.ones(1, 3, dtype=torch.bool)
    rankings, _ = sample_rankings(scores, mask, gumbel_noise([0], 3000, mask), temperature=1.0, k=1)
    counts = rankings.flatten().bincount(minlength=3) / 3000
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), atol=0.04, rtol=0)


def test_half_precision_is_computed_in_float32():
    scores, mask = random_lists()
    rankings = torch.tensor([[0, 1], [2, 3]]).expand(2, 2, 2)
    policy = position_distributions(scores.bfloat16(), mask, rankings, temperature=1.0)
    exact = position_distributions(scores.bfloat16().double(), mask, rankings, temperature=1.0)
    assert policy.log_probs.dtype == torch.float32
    torch.testing.assert_close(policy.log_probs.double(), exact.log_probs, atol=1e-6, rtol=1e-6)


def test_uniform_scores_give_the_uniform_distribution():
    mask = torch.ones(1, 6, dtype=torch.bool)
    policy = position_distributions(torch.zeros(1, 6), mask, torch.tensor([[[5, 0, 3]]]), temperature=1.0)
    expected = torch.tensor([[[math.log(6), math.log(5), math.log(4)]]])
    torch.testing.assert_close(policy.entropy(), expected)
    torch.testing.assert_close(policy.log_probs, -expected)
