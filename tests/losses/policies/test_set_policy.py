"""Policies over sets against enumeration of all sets: gradients of samples (oracle 3), entropy, divergence, rewards."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from launch.cli.compose import instantiate
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.policies.set_policy import SelectionGRPO, SubsetGRPO
from losses.policies.set_rewards import SetF, SetPrecision, SetRecall
from losses.rewards import NDCG

CONF = Path(__file__).parents[3] / "conf" / "loss"
SCORES = torch.tensor([0.3, -0.6, 0.9, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.4, -0.2, -0.9], dtype=torch.float64)
LABELS, MASK = torch.tensor([0.0, 2.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool)
SELECTION = SelectionGRPO(num_generations=8, temperature=0.7)
SUBSET = SubsetGRPO(num_generations=8, temperature=0.7, k=2)
POLICIES = [SELECTION, SUBSET]
names = pytest.mark.parametrize("loss", POLICIES, ids=["selection", "subset"])


def all_sets(loss) -> torch.Tensor:
    """[sets, 4] bool, those that the policy can choose."""
    sets = torch.tensor(list(product([False, True], repeat=4)))
    return sets[sets.sum(-1) == loss.k] if isinstance(loss, SubsetGRPO) else sets


def exact_gradient(loss, function) -> torch.Tensor:
    """d/ds sum_S P(S) function(log P(S))."""
    scores = SCORES.clone().requires_grad_()
    log_prob = loss.distribution(scores, MASK, all_sets(loss)).log_probs.sum(-1)
    assert log_prob.exp().sum().item() == pytest.approx(1)
    return torch.autograd.grad((log_prob.exp() * function(log_prob)).sum(), scores)[0]


def reward_gradient(loss) -> torch.Tensor:
    reward = loss.reward(all_sets(loss), LABELS, MASK).double()
    return exact_gradient(loss, lambda log_prob: reward)


def kl_gradient(loss) -> torch.Tensor:
    reference = loss.distribution(REFERENCE, MASK, all_sets(loss)).log_probs.sum(-1)
    return exact_gradient(loss, lambda log_prob: log_prob - reference)


def gradient_samples(loss, num_samples: int = 5_000) -> torch.Tensor:
    """Independent estimates, [samples, 4], of sets drawn by `sample`."""

    def repeat(values):
        return values.expand(num_samples, 4)

    scores = repeat(SCORES).clone().requires_grad_()
    actions = loss.sample(scores.detach(), repeat(MASK), range(num_samples))
    reference = repeat(REFERENCE) if loss.beta else None
    value, _ = loss(
        scores,
        repeat(LABELS),
        repeat(MASK),
        actions=actions,
        old_scores=scores.detach(),
        reference_scores=reference,
    )
    return torch.autograd.grad(value, scores)[0] * num_samples


@names
@pytest.mark.parametrize("options", [{}, {"importance_sampling_level": "sequence_product"}], ids=str)
def test_oracle_3_unbiased(loss, options, z_scores):
    samples, exact = gradient_samples(replace(loss, **options)), reward_gradient(loss)
    assert z_scores(samples, -exact).abs().max() < 4
    assert z_scores(samples, 0 * exact).abs().max() > 10


@names
def test_oracle_3_group_mean_shrinks_by_one_over_g(loss, z_scores):
    samples = gradient_samples(replace(loss, num_generations=4, advantage_estimator="none"))
    assert z_scores(samples, -0.75 * reward_gradient(loss)).abs().max() < 4
    assert z_scores(samples, -reward_gradient(loss)).abs().max() > 4


@names
@pytest.mark.parametrize("kl", [{}, {"kl_in": "reward", "kl_estimator": "k1"}, {"kl_estimator": "k3"}], ids=str)
def test_oracle_5_the_divergence_has_its_whole_gradient(loss, kl, z_scores):
    exact = -reward_gradient(loss) + 0.5 * kl_gradient(loss)
    samples = gradient_samples(replace(loss, beta=0.5, **kl))
    assert z_scores(samples, exact).abs().max() < 4
    assert z_scores(samples, -reward_gradient(loss)).abs().max() > 4


@names
def test_entropy_and_divergence_are_those_of_the_enumeration(loss):
    sets = all_sets(loss)
    policy, reference = (loss.distribution(scores, MASK, sets) for scores in (SCORES, REFERENCE))
    log_prob, other = policy.log_probs.sum(-1), reference.log_probs.sum(-1)
    torch.testing.assert_close(policy.entropy().sum(), -(log_prob.exp() * log_prob).sum())
    torch.testing.assert_close(policy.kl(reference).sum(), (log_prob.exp() * (log_prob - other)).sum())


def test_selection_has_the_gradient_of_its_indicator():
    """d log P(S) / d s_i = (1[i in S] - p_i) / T."""
    sets, scores = all_sets(SELECTION), SCORES.clone().requires_grad_()
    for row in (0, 5, 15):
        log_prob = SELECTION.distribution(scores, MASK, sets).log_probs[row].sum()
        (found,) = torch.autograd.grad(log_prob, scores)
        torch.testing.assert_close(found, (sets[row].double() - (SCORES / 0.7).sigmoid()) / 0.7)


def test_one_document_of_a_set_is_the_setwise_choice():
    """k = 1: the loss and gradient of the Plackett-Luce policy that chooses the first document."""
    subset = SubsetGRPO(num_generations=8, k=1, reward=SetPrecision())
    choice = instantiate(OmegaConf.to_container(OmegaConf.load(CONF / "setwise_choice.yaml")))
    assert choice == PlackettLuceGRPO(num_generations=64, k=1, reward=NDCG(k=1))
    choice = replace(choice, num_generations=8)
    labels, mask = (LABELS > 0).float().expand(3, 4), MASK.expand(3, 4)
    old = torch.stack([SCORES, REFERENCE, SCORES])
    chosen = choice.sample(old, mask, [1, 2, 3])
    sets = torch.zeros(3, 8, 4, dtype=torch.bool).scatter(-1, chosen.rankings, True)
    found = []
    for loss, actions in ((choice, chosen), (subset, sets)):
        scores = (old + 0.1).roll(1, 0).requires_grad_()
        value, statistics = loss(scores, labels, mask, actions=actions, old_scores=old, reference_scores=old)
        found.append((value, torch.autograd.grad(value, scores)[0], statistics))
    torch.testing.assert_close(found[0][:2], found[1][:2])
    for name in ("reward_mean", "entropy", "kl", "clip_fraction"):
        torch.testing.assert_close(found[0][2][name], found[1][2][name])


def test_rewards_of_sets():
    """Two of three relevant documents, among four chosen."""
    labels, mask = torch.tensor([1.0, 2.0, 0.0, 0.0, 1.0, 9.0]), torch.tensor([True] * 5 + [False])
    selected = torch.tensor([[True, True, True, True, False, False], [False] * 6])
    assert SetPrecision()(selected, labels, mask).tolist() == [0.5, 0]
    assert SetRecall()(selected, labels, mask).tolist() == pytest.approx([2 / 3, 0])
    assert SetF()(selected, labels, mask).tolist() == pytest.approx([2 * 0.5 * (2 / 3) / (0.5 + 2 / 3), 0])
    assert SetF(2.0)(selected, labels, mask).tolist() == pytest.approx([5 * 0.5 * (2 / 3) / (4 * 0.5 + 2 / 3), 0])
    for reward in (SetPrecision(), SetRecall(), SetF()):
        assert (reward(selected, torch.zeros(6), mask) == 0).all()


@names
def test_samples_are_functions_of_the_seed_and_of_the_lists_own_documents(loss):
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    scores = torch.stack([SCORES, REFERENCE])
    first, again, other = (loss.sample(scores, mask, seeds) for seeds in ([1, 2], [1, 2], [3, 2]))
    assert first.shape == (2, 8, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1])
    assert not first[1, :, 3].any()
    alone = loss.sample(scores[1:, :3], mask[1:, :3], [2])
    assert torch.equal(alone[0], first[1, :, :3])


@pytest.mark.parametrize(("name", "loss"), [("selection_grpo", SelectionGRPO()), ("subset_grpo", SubsetGRPO())])
def test_the_configuration_files_state_the_defaults(name, loss):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    assert instantiate(OmegaConf.to_container(node)) == loss
    assert set(node) - {"_target_"} == {field.name for field in fields(loss)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubsetGRPO(k=0), "k must be at least 1, got 0"),
        (lambda: SetF(beta=0.0), "SetF.beta must be above 0"),
        (
            lambda: SelectionGRPO(reward=[SetF(), SetRecall()], reward_weights=[1.0]),
            "reward_weights has 1 values for 2",
        ),
        (lambda: SelectionGRPO(beta=0.1, kl_in="reward"), "with kl_in=reward, kl_estimator='exact' is not known"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
