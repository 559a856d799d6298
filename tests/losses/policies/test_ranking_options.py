"""The options: what the configuration files say, and the one-line refusals."""

from __future__ import annotations

import operator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from launch.cli.compose import instantiate
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.rewards import MRR, NDCG

CONF = Path(__file__).parents[3] / "conf" / "loss"


def first_is_relevant(rankings, labels, mask):
    """A user's reward, without per_position."""
    return (torch.take_along_dim(labels.unsqueeze(-2), rankings[..., :1], -1)[..., 0] > 0).float()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 1}, "num_generations must be at least 2, got 1"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"epsilon": -0.1}, "epsilon must be at least 0"),
        ({"epsilon": 2.0}, "epsilon must be below 1, got 2.0"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number, got nan"),
        ({"epsilon_high": -0.5}, "epsilon_high must be at least 0, got -0.5"),
        ({"epsilon_high": float("nan")}, "epsilon_high must be a finite number, got nan"),
        ({"temperature": float("inf")}, "temperature must be a finite number, got inf"),
        ({"delta": float("nan")}, "delta must be a finite number"),
        ({"beta": float("inf")}, "beta must be a finite number"),
        ({"entropy_coef": float("nan")}, "entropy_coef must be a finite number"),
        ({"reward_weights": [float("inf")]}, "reward_weights must be a finite number, got inf"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": 5}, "k=5 positions are fewer than the 10 that the reward reads"),
        ({"loss_type": "gspo"}, "loss_type='gspo' is not known; choose one of: sum, grpo"),
        ({"advantage_estimator": "rlo"}, "choose one of: rloo, none, group, batch"),
        ({"gradient_estimator": "pl_rank_3"}, "choose one of: policy_gradient, pl_rank_2"),
        ({"importance_sampling_level": "list"}, "choose one of: token, sequence, sequence_product"),
        ({"kl_in": "both"}, "choose one of: loss, reward"),
        ({"kl_estimator": "k1"}, "with kl_in=loss, kl_estimator='k1' is not known; choose one of: rao_blackwell, k2"),
        ({"kl_in": "reward", "kl_estimator": "k3"}, "choose one of: rao_blackwell, k1"),
        ({"importance_sampling_level": "sequence"}, "set reward_to_go to false, or the level to token"),
        ({"loss_type": "cispo"}, "loss_type=cispo needs epsilon_high"),
        ({"reward": first_is_relevant}, "needs a reward with per_position.., which first_is_relevant does not have"),
        ({"reward": MRR(), "gradient_estimator": "pl_rank_2"}, "takes the rewards NDCG and Recall, not RR"),
        ({"delta": -1.0}, "delta must be above 0, got -1.0"),
        ({"epsilon_high": -1.0}, "epsilon_high must be at least 0"),
        ({"kl_in": "reward"}, "kl_in=reward has no effect with beta=0 .no divergence.; leave it at loss"),
        (
            {"kl_estimator": "k2"},
            "kl_estimator=k2 has no effect with beta=0 .no divergence.; leave it at rao_blackwell",
        ),
        ({"use_bias_correction_kl": False}, "use_bias_correction_kl=False has no effect with beta=0"),
        ({"beta": 0.1, "use_bias_correction_kl": False}, "no effect with kl_estimator=rao_blackwell; leave it at True"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "epsilon": 0.1}, "epsilon=0.1 has no effect with loss_type=cispo"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "delta": 2.0}, "delta=2.0 has no effect with loss_type=cispo"),
        ({"reward": [NDCG(), MRR()], "reward_weights": [1.0]}, "reward_weights has 1 values for 2 rewards"),
    ],
)
def test_refusals_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        PlackettLuceGRPO(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"delta": 2.0},
        {"advantage_estimator": "group"},
        {"reward_to_go": False},
        {"skip_zero_std": True},
        {"epsilon": 0.1},
        {"epsilon_high": 0.3},
        {"loss_type": "grpo"},
        {"importance_sampling_level": "sequence"},
        {"beta": 0.1, "kl_in": "reward"},
    ],
    ids=str,
)
def test_pl_rank_2_refuses_what_it_does_not_use(option):
    name, value = list(option.items())[-1]
    with pytest.raises(ValueError, match=f"^{name}={value} has no effect with gradient_estimator=pl_rank_2; leave it"):
        PlackettLuceGRPO(gradient_estimator="pl_rank_2", **option)


def test_what_pl_rank_2_and_the_divergence_use():
    PlackettLuceGRPO(gradient_estimator="pl_rank_2", beta=0.1, kl_estimator="k3", entropy_coef=0.1, k=20)
    PlackettLuceGRPO(beta=0.1, kl_estimator="k3", use_bias_correction_kl=False)
    node = OmegaConf.load(CONF / "plackett_luce_grpo.yaml")
    node.beta = 0
    assert instantiate(OmegaConf.to_container(node)).beta == 0


def test_the_configuration_file_states_the_defaults():
    node = OmegaConf.load(CONF / "plackett_luce_grpo.yaml")
    assert instantiate(OmegaConf.to_container(node)) == PlackettLuceGRPO()
    assert set(node) - {"_target_"} == {field.name for field in fields(PlackettLuceGRPO)}


def test_rewards_of_a_configuration():
    node = OmegaConf.load(CONF / "plackett_luce_grpo.yaml")
    node.reward = [{"_target_": "losses.rewards.NDCG", "k": 5}, {"_target_": "losses.rewards.MRR", "k": 3}]
    node.reward_weights = [1, 0.5]
    loss = instantiate(OmegaConf.to_container(node))
    assert loss.reward_sum.rewards == (NDCG(k=5), MRR(k=3))
    assert loss.reward_sum.weights == (1, 0.5)
    assert loss.num_positions(8) == 5
    node.reward = {"_target_": "operator.add"}
    node.reward_to_go = False
    node.reward_weights = None
    assert instantiate(OmegaConf.to_container(node)).reward_sum.rewards == (operator.add,)


def test_a_users_reward_without_positions():
    loss = PlackettLuceGRPO(num_generations=4, reward=first_is_relevant, reward_to_go=False)
    scores, labels, mask = torch.randn(2, 6), torch.eye(6)[:2], torch.ones(2, 6, dtype=torch.bool)
    rankings = loss.sample(scores, mask, [1, 2])
    assert rankings.rankings.shape == (2, 4, 6)
    _, statistics = loss(scores, labels, mask, actions=rankings, old_scores=scores)
    expected = first_is_relevant(rankings.rankings, labels, mask).mean()
    torch.testing.assert_close(statistics["reward_mean"], expected)


def test_properties():
    assert PlackettLuceGRPO.contract == "list"
    assert PlackettLuceGRPO(gradient_estimator="pl_rank_2").on_policy_only
    assert not PlackettLuceGRPO().on_policy_only
