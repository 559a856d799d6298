"""What a policy promises beside the properties of every list loss (test_properties.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_samples import Case
from policies import VARIANTS, Policy

from losses.policies.token_policy import TokenPolicyGRPO


@pytest.fixture(params=VARIANTS)
def policy(request) -> Case:
    return Case(Policy(VARIANTS[request.param]), "scores")


def test_sampling_ignores_padding(policy):
    sample = policy.sample()
    padded = policy.with_actions(sample.padded(3))
    assert torch.equal(padded.actions[:, :5][sample.mask], sample.actions[sample.mask])


def test_a_list_of_one_label_teaches_a_policy_nothing(policy):
    if isinstance(policy.loss.policy, TokenPolicyGRPO):
        pytest.skip("each of its documents is right or wrong by itself")
    gradient = policy.evaluate(policy.sample()).gradients["scores"]
    assert (gradient[2:] == 0).all()
    assert (gradient[:2].abs().amax(-1) > 1e-4).all()
    sample = policy.sample()
    for labels in (torch.zeros_like(sample.labels), torch.ones_like(sample.labels)):
        result = policy.evaluate(replace(sample, labels=labels))
        assert result.value == 0
        assert (result.gradients["scores"] == 0).all()


@pytest.mark.parametrize("scores", [0.0, 1e4, -1e4])
def test_on_policy_at_extreme_scores(policy, scores):
    sample = policy.sample()
    extreme = sample.scores.sign() * scores
    result = policy.evaluate(policy.with_actions(replace(sample, scores=extreme, old_scores=extreme, actions=None)))
    assert result.value.isfinite()
    assert result.gradients["scores"].isfinite().all()
    if scores == 0:
        assert (result.gradients["scores"][:2].abs().amax(-1) > 0).all()


def test_a_mean_over_lists_is_over_those_that_can_be_ordered(policy):
    if policy.loss.policy.loss_type not in ("sum", "grpo", "dr_grpo") or policy.loss.policy.entropy_coef:
        pytest.skip("denominators of its own")
    if isinstance(policy.loss.policy, TokenPolicyGRPO):
        pytest.skip("a mean over documents")
    if policy.loss.policy.advantage_estimator == "batch":
        pytest.skip("its std is that of the batch")
    sample = policy.sample()
    together = policy.evaluate(sample).gradients["scores"][0]
    alone = policy.evaluate(sample.at([0])).gradients["scores"][0]
    torch.testing.assert_close(together, alone / 2)


def test_oracle_4_equal_rewards_give_zero_but_for_the_divergence(policy):
    options = policy.loss.policy
    if options.on_policy_only or options.entropy_coef or getattr(options, "expected", False):
        pytest.skip("it learns from more than the differences of the rewards")
    sample = policy.sample()
    sample = policy.with_actions(replace(sample, scores=sample.old_scores))
    same = replace(sample, actions=sample.actions[..., :1].expand_as(sample.actions))
    result = policy.evaluate(same)
    assert result.statistics["frac_reward_zero_std"] == 1
    assert (result.gradients["scores"] == 0).all() == (options.beta == 0 or options.kl_estimator == "k1")
