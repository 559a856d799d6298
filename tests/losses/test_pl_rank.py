"""PL-Rank-2: oracle 3, its expectation is the exact gradient, and each sample is the formula of the paper."""

from __future__ import annotations

import torch

from losses.pl_rank import pl_rank_2
from losses.rewards import NDCG


def sample_gradients(enumeration, reward, k):
    """The estimate of every ranking, [rankings, 4], and the value."""
    scores = enumeration.scores.clone().requires_grad_()
    policy = enumeration.policy(scores, k)
    gains = reward.gains(enumeration.labels, enumeration.mask).double()
    value = pl_rank_2(policy, gains, reward.discounts(policy.rankings).double())
    rows = [torch.autograd.grad(row.sum(), scores, retain_graph=True)[0] for row in value]
    return torch.stack(rows), value


def test_oracle_3_expectation_is_the_exact_gradient(enumeration):
    for k, reward in ((2, NDCG(k=2)), (4, NDCG(k=None)), (3, NDCG(k=2))):
        gradients, _ = sample_gradients(enumeration, reward, k)
        probability = enumeration.policy(enumeration.scores, k).log_probs.sum(-1).exp()
        expected = enumeration.reward_gradient(reward, k)
        torch.testing.assert_close(probability @ gradients, expected, atol=1e-7, rtol=0)


def test_each_sample_is_the_formula_of_the_paper(enumeration):
    reward, k, n = NDCG(k=3), 3, 4
    gradients, value = sample_gradients(enumeration, reward, k)
    gain = reward.gains(enumeration.labels, enumeration.mask).double()
    theta = reward.discounts(enumeration.rankings(k)).double()
    weight = (enumeration.scores / enumeration.temperature).exp()
    for row, ranking in enumerate(enumeration.rankings(k).tolist()):
        earned = [theta[x] * gain[ranking[x]] for x in range(k)]
        for d in range(n):
            rank = ranking.index(d) if d in ranking else n
            expected = sum(earned[rank + 1 :])
            for j in range(min(k, rank + 1)):
                left = sum(weight[i] for i in range(n) if i not in ranking[:j])
                expected = expected + weight[d] / left * (theta[j] * gain[d] - sum(earned[j:]))
            torch.testing.assert_close(gradients[row, d], torch.as_tensor(expected / enumeration.temperature).double())
    earned = reward(enumeration.rankings(k), enumeration.labels, enumeration.mask).double()
    torch.testing.assert_close(value.sum(-1), earned)
