"""Oracle 5: the expected gradients of the estimators of the divergence, by enumeration over rankings."""

from __future__ import annotations

import pytest
import torch

from losses.math.kl import k1, k2, k3
from losses.math.plackett_luce import reverse_cumsum

K = 3


def expected_gradient(enumeration, estimate):
    """sum_y sg[P(y)] d/ds estimate(log P(y), log P_ref(y)): what a loss on the policy's own samples has on average."""
    scores = enumeration.scores.clone().requires_grad_()
    log_probs = enumeration.policy(scores, K).log_probs.sum(-1)
    reference = enumeration.policy(enumeration.reference_scores, K).log_probs.sum(-1)
    value = (log_probs.exp().detach() * estimate(log_probs, reference)).sum()
    return torch.autograd.grad(value, scores)[0]


def forward_kl_gradient(enumeration):
    scores = enumeration.scores.clone().requires_grad_()
    reference = enumeration.policy(enumeration.reference_scores, K).log_probs.sum(-1)
    divergence = (reference.exp() * (reference - enumeration.policy(scores, K).log_probs.sum(-1))).sum()
    return torch.autograd.grad(divergence, scores)[0]


def test_oracle_5_k1_as_a_loss_has_no_gradient(enumeration):
    torch.testing.assert_close(expected_gradient(enumeration, k1), torch.zeros(4).double(), atol=1e-12, rtol=0)


def test_oracle_5_k1_in_the_reward_is_reverse(enumeration):
    gradient = expected_gradient(enumeration, lambda p, q: k1(p, q).detach() * p)
    torch.testing.assert_close(gradient, enumeration.kl_gradient(K), atol=1e-12, rtol=0)


def test_oracle_5_k2_is_reverse(enumeration):
    torch.testing.assert_close(expected_gradient(enumeration, k2), enumeration.kl_gradient(K), atol=1e-12, rtol=0)


def test_oracle_5_k3_is_forward(enumeration):
    gradient = expected_gradient(enumeration, k3)
    torch.testing.assert_close(gradient, forward_kl_gradient(enumeration), atol=1e-12, rtol=0)
    assert (gradient - enumeration.kl_gradient(K)).abs().max() > 0.01


def test_oracle_5_ratio_times_k3_is_reverse(enumeration):
    gradient = expected_gradient(enumeration, lambda p, q: (p - p.detach()).exp() * k3(p, q))
    torch.testing.assert_close(gradient, enumeration.kl_gradient(K), atol=1e-12, rtol=0)


def test_oracle_5_rao_blackwell_with_the_divergence_to_go(enumeration):
    """E[sum_j grad KL_j + sum_l grad log P(y_l) sum_{j > l} KL_j] is the whole gradient, the first term not."""
    scores = enumeration.scores.clone().requires_grad_()
    policy = enumeration.policy(scores, K)
    kl = policy.kl(enumeration.policy(enumeration.reference_scores, K))
    to_go = (reverse_cumsum(kl) - kl).detach()
    probability = policy.log_probs.sum(-1).exp().detach()
    whole = (probability * (kl + policy.log_probs * to_go).sum(-1)).sum()
    lacking = (probability * kl.sum(-1)).sum()
    exact = enumeration.kl_gradient(K)
    gradient, partial = (torch.autograd.grad(v, scores, retain_graph=True)[0] for v in (whole, lacking))
    torch.testing.assert_close(gradient, exact, atol=1e-12, rtol=0)
    assert (partial - exact).abs().max() > 0.01


@pytest.mark.parametrize("estimate", [k1, k3])
def test_expectation_is_the_divergence(estimate, enumeration):
    log_probs = enumeration.policy(enumeration.scores, K).log_probs.sum(-1)
    reference = enumeration.policy(enumeration.reference_scores, K).log_probs.sum(-1)
    exact = (log_probs.exp() * (log_probs - reference)).sum()
    torch.testing.assert_close((log_probs.exp() * estimate(log_probs, reference)).sum(), exact)


def test_k3_does_not_overflow():
    log_probs = torch.tensor([-1e4], requires_grad=True)
    value = k3(log_probs, torch.zeros(1))
    assert value.isfinite()
    assert torch.autograd.grad(value, log_probs)[0].isfinite()
