"""Oracle 6: the Plackett-Luce GRPO equals TRL's `GRPOTrainer._compute_loss` on the same log-probabilities."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from losses.advantages import advantages, reward_to_go_advantages
from losses.plackett_luce import position_distributions
from losses.policy_gradient import importance_ratio, reduce_positions
from losses.ranking_policy import PlackettLuceGRPO
from losses.rewards import NDCG

OURS_TO_TRL = {"sum": "luspo"}  # TRL's name for this aggregation
BASE = PlackettLuceGRPO(
    num_generations=6, k=4, reward=NDCG(k=4), advantage_estimator="group", reward_to_go=False, epsilon=0.1
)


@pytest.fixture(scope="module")
def trl_trainer_class():
    """Imported once: it takes about ten seconds."""
    trl = pytest.importorskip("trl")
    return trl.GRPOTrainer


def lists():
    """Two lists, the second shorter (3) than the positions (4), with scores that moved away from the old ones."""
    generator = torch.Generator().manual_seed(4)
    scores, step, reference = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64).unbind()
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    labels = torch.tensor([[0, 3, 1, 0, 2, 0], [1, 0, 2, 0, 0, 0]]).double()
    return scores, labels, mask, scores + 0.4 * step, reference


def trl_loss(trainer_class, loss, policy, old, reference, labels, mask):
    """TRL's loss and metrics: a row is a ranking, a token is a position."""

    def rows(values):
        return values.flatten(0, 1)

    outcome = loss.rewards.evaluate(policy.rankings, labels, mask, per_position=loss.reward_to_go)
    if loss.reward_to_go:
        advantage = rows(reward_to_go_advantages(outcome.per_position, loss.advantage_estimator)).double()
    else:
        advantage = rows(advantages(outcome.total, loss.advantage_estimator)).double()
    positions = rows(policy.position_mask.expand_as(policy.log_probs)).long()
    trainer = object.__new__(trainer_class)
    trainer.__dict__.update(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        importance_sampling_level=loss.importance_sampling_level, beta=loss.beta,
        loss_type=OURS_TO_TRL.get(loss.loss_type, loss.loss_type), epsilon_low=loss.epsilon,
        epsilon_high=loss.epsilon if loss.epsilon_high is None else loss.epsilon_high, max_completion_length=loss.k,
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
    scores, labels, mask, old_scores, reference_scores = lists()
    rankings = loss.sample(old_scores, mask, [1, 2])
    scores.requires_grad_()
    value, statistics = loss(
        scores, labels, mask, rankings=rankings, old_scores=old_scores, reference_scores=reference_scores
    )
    policy, old, reference = (
        position_distributions(s, mask, rankings.rankings, temperature=loss.temperature)
        for s in (scores, old_scores, reference_scores)
    )
    expected, metrics = trl_loss(trainer_class, loss, policy, old, reference, labels, mask)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    (gradient,), (other,) = torch.autograd.grad(value, scores), torch.autograd.grad(expected, scores)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9)
    assert statistics["entropy"].item() == pytest.approx(metrics["entropy"][0])
    if loss.loss_type != "cispo" and loss.importance_sampling_level == "token":
        assert statistics["clip_fraction"].item() == pytest.approx(metrics["clip_ratio/region_mean"][0])
        assert statistics["clip_fraction"] > 0
    if loss.beta:
        assert statistics["kl"].item() == pytest.approx(metrics["kl"][0])


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["sum", "grpo", "bnpo", "dapo", "dr_grpo", "cispo"])
def test_oracle_6_loss_types_and_levels(trl_trainer_class, loss_type, level, beta):
    clip = {"epsilon": 0.2, "epsilon_high": 1.5} if loss_type == "cispo" else {"epsilon_high": 0.3}
    kl = {"beta": beta, "kl_estimator": "k3"} if beta else {}
    loss = replace(BASE, loss_type=loss_type, importance_sampling_level=level, **clip, **kl)
    check_parity(trl_trainer_class, loss)


@pytest.mark.parametrize(
    "options",
    [
        {"delta": 1.2},
        {"beta": 0.1, "kl_estimator": "k3", "use_bias_correction_kl": False},
        {"entropy_coef": 0.05},
        {"reward_to_go": True, "advantage_estimator": "rloo"},
        {"advantage_estimator": "batch", "loss_type": "grpo"},
        {"temperature": 0.7, "epsilon": 0.3},
    ],
    ids=str,
)
def test_oracle_6_options(trl_trainer_class, options):
    check_parity(trl_trainer_class, replace(BASE, **options))


def test_importance_sampling_levels():
    log_ratio = torch.tensor([[[0.1, 0.3, 0.0]], [[0.2, 0.0, 0.0]]])
    position_mask = torch.tensor([[[True, True, False]], [[True, False, False]]])
    expected = {"token": log_ratio, "sequence": [[[0.2]], [[0.2]]], "sequence_product": [[[0.4]], [[0.2]]]}
    for level, values in expected.items():
        ratio = importance_ratio(log_ratio, position_mask, level)
        torch.testing.assert_close(ratio, torch.as_tensor(values).exp())


def test_the_ratio_of_a_long_ranking_does_not_overflow():
    log_ratio = torch.full((1, 2, 1000), 1.0)
    ratio = importance_ratio(log_ratio, torch.ones(1, 1, 1000, dtype=torch.bool), "sequence_product")
    assert ratio.isfinite().all()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("sum", 7 / 4), ("grpo", 1.0), ("bnpo", 1.0), ("dapo", 1.0), ("cispo", 1.0), ("dr_grpo", 7 / 12)],
)
def test_denominators_count_only_the_lists_that_count(loss_type, expected):
    """Three lists of 2 rankings: of 3 and of half a position on average (3 + 3 + 1 + 0 = 7), and one left out."""
    position_mask = torch.tensor([[[1, 1, 1], [1, 1, 1]], [[1, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]).bool()
    loss = torch.ones(3, 2, 3)
    loss[2] = torch.nan
    list_mask = torch.tensor([True, True, False])
    value = reduce_positions(loss, position_mask, list_mask, loss_type=loss_type, num_positions=3)
    if loss_type == "grpo":
        expected = 3 / 4  # the ranking without positions counts as one of loss 0, as in TRL
    assert value.item() == pytest.approx(expected)
    none = reduce_positions(loss, position_mask, list_mask & False, loss_type=loss_type, num_positions=3)
    assert none == 0
