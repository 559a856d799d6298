"""Oracle 6: every policy's loss equals TRL's `GRPOTrainer._compute_loss` on the same log-probabilities.

A row of TRL is an action and a token one of its positions: a place of a ranking, a document of a set, or the one answer
about a document, which is a completion of one token.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from losses.policies.advantages import advantages, reward_to_go_advantages
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.policies.set_policy import SelectionGRPO, SubsetGRPO
from losses.policies.token_policy import TokenPolicyGRPO
from losses.rewards import NDCG

OURS_TO_TRL = {"sum": "luspo"}  # TRL's name for this aggregation
COMMON = {"advantage_estimator": "group", "epsilon": 0.1}
POLICIES = {
    "ranking": PlackettLuceGRPO(num_generations=6, k=4, reward=NDCG(k=4), reward_to_go=False, **COMMON),
    "token": TokenPolicyGRPO(num_generations=6, pos_weight=None, **COMMON),
    "vocabulary": TokenPolicyGRPO(num_generations=6, vocabulary=True, format_weight=0.5, pos_weight=None, **COMMON),
    "selection": SelectionGRPO(num_generations=6, **COMMON),
    "subset": SubsetGRPO(num_generations=6, **COMMON),
}
BASE = POLICIES["ranking"]


@pytest.fixture(scope="module")
def trl_trainer_class():
    """Imported once: it takes about ten seconds."""
    trl = pytest.importorskip("trl")
    return trl.GRPOTrainer


def lists(loss):
    """labels, mask and, by prefix, what the policy is made of: two lists, with scores that moved from the old ones.

    The second is shorter (3) than the ranking's positions (4), but where documents are judged by themselves: TRL has no
    rows of padding.
    """
    generator = torch.Generator().manual_seed(4)
    scores, step, reference = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64).unbind()
    sizes = [[6], [6]] if isinstance(loss, TokenPolicyGRPO) else [[6], [3]]
    labels = torch.tensor([[0, 3, 1, 0, 2, 0], [1, 0, 2, 0, 0, 0]]).double()
    made = {}
    for prefix, values in (("", scores), ("old_", scores + 0.4 * step), ("reference_", reference)):
        made |= {f"{prefix}scores": values, f"{prefix}logsumexp": F.softplus(values) + 0.3 + step.square()}
    return labels, torch.arange(6) < torch.tensor(sizes), made


def trl_loss(trainer_class, loss, policy, old, reference, rewards):
    """TRL's loss and metrics of the same distributions and rewards."""
    shape = policy.log_probs.shape

    def rows(values):
        return values.expand(shape).reshape(-1, shape[-1])

    if rewards.per_position is not None:
        advantage = rows(reward_to_go_advantages(rewards.per_position, loss.advantage_estimator)).double()
    else:
        advantage = advantages(rewards.total, loss.advantage_estimator).flatten().double()
    positions = rows(policy.position_mask).long()
    trainer = object.__new__(trainer_class)
    trainer.__dict__.update(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        importance_sampling_level=loss.importance_sampling_level, beta=loss.beta,
        loss_type=OURS_TO_TRL.get(loss.loss_type, loss.loss_type), epsilon_low=loss.epsilon,
        epsilon_high=loss.epsilon if loss.epsilon_high is None else loss.epsilon_high, max_completion_length=shape[-1],
        _entropy_bonus_enabled=loss.entropy_coef != 0, use_adaptive_entropy=False, entropy_coef=loss.entropy_coef,
        current_gradient_accumulation_steps=1, _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(
            use_bias_correction_kl=loss.use_bias_correction_kl, delta=loss.delta, steps_per_generation=1
        ),
        accelerator=SimpleNamespace(
            num_processes=1, sync_gradients=True, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        _get_per_token_logps_and_entropies=lambda *_, **__: (rows(policy.log_probs), rows(policy.entropy()), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": positions[:, :1], "prompt_mask": positions[:, :1], "completion_ids": positions,
        "completion_mask": positions, "advantages": advantage, "old_per_token_logps": rows(old.log_probs),
        "ref_per_token_logps": rows(reference.log_probs), "num_items_in_batch": positions.sum(),
    }  # fmt: skip
    return trainer._compute_loss(None, inputs), trainer._metrics["train"]


def check_parity(trainer_class, loss):
    labels, mask, made = lists(loss)
    own = ("scores", *loss.policy_inputs)
    given = {f"{prefix}{name}": made[f"{prefix}{name}"] for prefix in ("", "old_", "reference_") for name in own}
    actions = loss.sample(mask=mask, seeds=[1, 2], **{name: given[f"old_{name}"] for name in own})
    leaves = [given[name].requires_grad_() for name in own]
    value, statistics = loss(labels=labels, mask=mask, actions=actions, **given)
    policy, old, reference = (
        loss.distribution(mask=mask, actions=actions, **{name: given[f"{prefix}{name}"] for name in own})
        for prefix in ("", "old_", "reference_")
    )
    expected, metrics = trl_loss(
        trainer_class, loss, policy, old.detach(), reference.detach(), loss.compute_rewards(actions, labels, mask)
    )
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    gradients, others = torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients, others, rtol=1e-9, atol=1e-9)
    assert statistics["entropy"].item() == pytest.approx(metrics["entropy"][0])
    if loss.loss_type != "cispo" and loss.importance_sampling_level == "token":
        assert statistics["clip_fraction"].item() == pytest.approx(metrics["clip_ratio/region_mean"][0])
        assert statistics["clip_fraction"] > 0
    if loss.beta:
        assert statistics["kl"].item() == pytest.approx(metrics["kl"][0])


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["sum", "grpo", "bnpo", "dapo", "dr_grpo", "cispo"])
@pytest.mark.parametrize("policy", POLICIES)
def test_loss_types_and_levels(trl_trainer_class, policy, loss_type, level, beta):
    clip = {"epsilon": 0.2, "epsilon_high": 1.5} if loss_type == "cispo" else {"epsilon_high": 0.3}
    kl = {"beta": beta, "kl_estimator": "k3"} if beta else {}
    loss = replace(POLICIES[policy], loss_type=loss_type, importance_sampling_level=level, **clip, **kl)
    check_parity(trl_trainer_class, loss)


OPTIONS = [
    {"delta": 1.2},
    {"beta": 0.1, "kl_estimator": "k3", "use_bias_correction_kl": False},
    {"entropy_coef": 0.05},
    {"advantage_estimator": "batch", "loss_type": "grpo"},
    {"advantage_estimator": "rloo"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_options(trl_trainer_class, policy, options):
    check_parity(trl_trainer_class, replace(POLICIES[policy], **options))


@pytest.mark.parametrize(
    "options",
    [{"reward_to_go": True, "advantage_estimator": "rloo"}, {"temperature": 0.7, "epsilon": 0.3}],
    ids=str,
)
def test_options_of_rankings(trl_trainer_class, options):
    check_parity(trl_trainer_class, replace(BASE, **options))
