"""The two-token policy: oracle 3 (pointwise, G = 4: exactly 0.75), closed forms."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from losses.math.answers import expected_reward, two_token_entropy, two_token_kl, two_token_log_prob
from losses.policies.advantages import advantages

SCORES = torch.tensor([0.4, -1.3, 2.0], dtype=torch.float64)
REWARD_YES, REWARD_NO = torch.tensor([1.0, 0.0, 0.2]).double(), torch.tensor([0.0, 1.0, 0.9]).double()


@pytest.mark.parametrize(("estimator", "factor"), [("none", 0.75), ("rloo", 1.0)])
def test_oracle_3_pointwise_group_of_four(estimator, factor):
    """Summed over all 2^4 groups, the group mean shrinks the gradient to exactly (G-1)/G = 0.75."""
    scores = SCORES.clone().requires_grad_()
    expectation = 0.0
    for group in product([False, True], repeat=4):
        is_yes = torch.tensor(group).expand(3, 4)
        rewards = REWARD_YES[:, None].where(is_yes, REWARD_NO[:, None])
        log_probs = two_token_log_prob(scores[:, None].expand(3, 4), is_yes)
        probability = log_probs.sum(-1).exp().detach()
        expectation = expectation + probability * (advantages(rewards, estimator) * log_probs).mean(-1)
    (gradient,) = torch.autograd.grad(expectation.sum(), scores)
    (exact,) = torch.autograd.grad(expected_reward(scores, REWARD_YES, REWARD_NO).sum(), scores)
    torch.testing.assert_close(gradient, factor * exact, atol=1e-14, rtol=0)


def test_expected_reward_gradient_is_closed_form():
    scores = SCORES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_reward(scores, REWARD_YES, REWARD_NO).sum(), scores)
    torch.testing.assert_close(gradient, SCORES.sigmoid() * (-SCORES).sigmoid() * (REWARD_YES - REWARD_NO))


def test_entropy_and_divergence_equal_torch():
    reference = SCORES.flip(0)
    torch.testing.assert_close(two_token_entropy(SCORES), Bernoulli(logits=SCORES).entropy())
    expected = kl_divergence(Bernoulli(logits=SCORES), Bernoulli(logits=reference))
    torch.testing.assert_close(two_token_kl(SCORES, reference), expected)


def test_extreme_margins_are_finite():
    scores = torch.tensor([1e4, -1e4], requires_grad=True)
    for value in (two_token_entropy(scores), two_token_kl(scores, -scores.detach())):
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), scores)[0].isfinite().all()
