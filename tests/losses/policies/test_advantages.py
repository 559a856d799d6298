"""Advantages: TRL's formulas, exact zeros, and reward-to-go."""

from __future__ import annotations

import pytest
import torch

from losses.policies.advantages import ADVANTAGE_ESTIMATORS, advantages, reward_to_go_advantages

REWARDS = torch.tensor([[0.1, 0.5, 0.9, 0.2], [1.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3]])


def test_formulas():
    centred = REWARDS - REWARDS.mean(-1, keepdim=True)
    torch.testing.assert_close(advantages(REWARDS, "none"), centred)
    torch.testing.assert_close(advantages(REWARDS, "rloo"), centred * 4 / 3)
    group_std = REWARDS.var(-1, unbiased=True, keepdim=True).sqrt()
    torch.testing.assert_close(advantages(REWARDS, "group"), centred / (group_std + 1e-4))
    torch.testing.assert_close(advantages(REWARDS, "batch"), centred / (REWARDS.flatten().std() + 1e-4))


def test_rloo_leaves_one_out():
    for i in range(4):
        others = REWARDS[:, [j for j in range(4) if j != i]].mean(-1)
        torch.testing.assert_close(advantages(REWARDS, "rloo")[:, i], REWARDS[:, i] - others)


@pytest.mark.parametrize("estimator", ADVANTAGE_ESTIMATORS)
def test_equal_rewards_give_exact_zeros(estimator):
    for value in (0.1, 1 / 3, 0.7):
        rewards = torch.full((2, 7), value)
        assert (advantages(rewards, estimator) == 0).all()
        assert (reward_to_go_advantages(rewards.unsqueeze(-1).expand(2, 7, 3), estimator) == 0).all()


def test_batch_std_counts_only_the_given_lists():
    listed = advantages(REWARDS, "batch", torch.tensor([True, False, True]))
    torch.testing.assert_close(listed[0], advantages(REWARDS[[0, 2]], "batch")[0])
    assert advantages(REWARDS, "batch", torch.zeros(3, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("estimator", ADVANTAGE_ESTIMATORS)
def test_reward_to_go_begins_with_the_whole_reward(estimator):
    rewards = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    to_go = reward_to_go_advantages(rewards, estimator)
    torch.testing.assert_close(to_go[..., 0], advantages(rewards.sum(-1), estimator))
    if estimator in ("none", "rloo"):
        torch.testing.assert_close(to_go[..., 1], advantages(rewards[..., 1:].sum(-1), estimator))
        torch.testing.assert_close(to_go[..., 2], advantages(rewards[..., 2], estimator))


def test_unknown_estimator():
    with pytest.raises(ValueError, match="'grpo' is not known; choose one of: rloo, none, group, batch"):
        advantages(REWARDS, "grpo")
