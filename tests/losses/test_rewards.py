"""Rewards equal `ir_measures`, and decompose over positions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from losses import rewards
from losses.contracts import requirements
from losses.policies import set_rewards
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.policies.set_policy import SubsetGRPO
from losses.rewards import MAP, MRR, NDCG, Recall, RewardSum, reward_name

REWARDS = [NDCG(k=10), NDCG(k=3), NDCG(k=None), MRR(), MRR(k=2), MAP(), MAP(k=3), Recall(k=5), Recall(k=1)]


@pytest.fixture(scope="module")
def graded():
    """Eight ragged lists up to 12 documents, grades 0-3 (the last without any), and 5 whole rankings of each."""
    generator = torch.Generator().manual_seed(3)
    n = 12
    sizes = torch.randint(3, n + 1, (8, 1), generator=generator)
    mask = torch.arange(n) < sizes
    labels = torch.randint(0, 4, (8, n), generator=generator) * torch.randint(0, 2, (8, n), generator=generator)
    labels[:7, 0], labels[7] = 2, 0
    noise = torch.rand(8, 5, n, generator=generator).masked_fill(~mask[:, None], -1)
    rankings = noise.argsort(dim=-1, descending=True)
    return rankings, labels.float(), mask


def ir_measures_values(measure, rankings, labels, mask):
    """The measure on each list and ranking, [lists, G], by the library of record."""
    import ir_measures

    values = torch.zeros(rankings.shape[:2])
    for row in range(len(rankings)):
        qrels = [ir_measures.Qrel("q", str(d), int(labels[row, d])) for d in mask[row].nonzero().flatten().tolist()]
        for g, ranking in enumerate(rankings[row].tolist()):
            documents = [d for d in ranking if mask[row, d]]
            run = [ir_measures.ScoredDoc("q", str(d), -float(rank)) for rank, d in enumerate(documents)]
            values[row, g] = ir_measures.calc_aggregate([measure], qrels, run)[measure]
    return values


@pytest.mark.parametrize("reward", REWARDS, ids=reward_name)
def test_equal_to_ir_measures(reward, graded):
    ir_measures = pytest.importorskip("ir_measures")
    measure = ir_measures.parse_measure(reward.name)
    expected = ir_measures_values(measure, *graded)
    assert expected[:7].max() > 0
    torch.testing.assert_close(reward(*graded), expected, atol=1e-6, rtol=0)


def test_exponential_gain(graded):
    rankings, labels, mask = graded
    torch.testing.assert_close(
        NDCG(k=5, gain="exponential")(rankings, labels, mask), NDCG(k=5)(rankings, 2**labels - 1, mask)
    )


@pytest.mark.parametrize("reward", REWARDS, ids=reward_name)
def test_positions_add_up_and_read_no_further(reward, graded):
    rankings, labels, mask = graded
    parts = reward.per_position(rankings, labels, mask)
    torch.testing.assert_close(parts.sum(-1), reward(rankings, labels, mask))
    for cut in (1, 3):
        torch.testing.assert_close(reward.per_position(rankings[..., :cut], labels, mask), parts[..., :cut])
    if reward.k is not None:
        assert (parts[..., reward.k :] == 0).all()


@pytest.mark.parametrize("reward", REWARDS, ids=reward_name)
def test_degenerate_lists_earn_nothing_and_padding_is_ignored(reward, graded):
    rankings, labels, mask = graded
    assert (reward(rankings, labels, mask)[7] == 0).all()
    garbage = labels.masked_fill(~mask, 9.0)
    assert torch.equal(reward(rankings, garbage, mask), reward(rankings, labels, mask))
    assert (reward(rankings, labels, torch.zeros_like(mask)) == 0).all()


def test_ideal_ranking_earns_one(graded):
    _, labels, mask = graded
    ideal = labels.masked_fill(~mask, -1).argsort(dim=-1, descending=True).unsqueeze(1)
    for reward in (NDCG(), NDCG(gain="exponential"), MRR(), MAP()):
        torch.testing.assert_close(reward(ideal, labels, mask)[:7], torch.ones(7, 1))


def precision_at_1(rankings, labels, mask):
    return (torch.take_along_dim(labels.unsqueeze(-2), rankings[..., :1], -1)[..., 0] > 0).float()


def test_sum_of_rewards(graded):
    both = RewardSum.from_options([NDCG(k=5), precision_at_1], [0.5, 2])
    rewards = both.evaluate(*graded, per_position=False)
    expected = 0.5 * NDCG(k=5)(*graded) + 2 * precision_at_1(*graded)
    torch.testing.assert_close(rewards.total, expected)
    assert list(rewards.values) == ["nDCG@5", "precision_at_1"]
    assert reward_name(partial(precision_at_1)) == "precision_at_1"
    assert both.depth is None
    assert RewardSum.from_options([NDCG(k=5), MRR(k=7)], None).depth == 7
    additive = RewardSum.from_options([NDCG(k=5), MAP()], [1, 3]).evaluate(*graded, per_position=True)
    torch.testing.assert_close(additive.per_position.sum(-1), additive.total)


def mean_label(rankings, labels, mask):
    return labels.mean(dim=-1)


def number(rankings, labels, mask):
    return 1.0


@dataclass(frozen=True)
class Totals:
    def per_position(self, rankings, labels, mask):
        return torch.zeros(rankings.shape[:-1])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (mean_label, r"reward mean_label returned the shape \[8\], expected a tensor \[..., G\], here \[8, 5\]"),
        (number, r"reward number returned a float, expected a tensor \[..., G\], here \[8, 5\]"),
        (
            Totals(),
            r"Totals.per_position returned the shape \[8, 5\], expected a tensor \[..., G, k\], here \[8, 5, 12\]",
        ),
    ],
)
def test_a_wrong_shape_is_named(reward, message, graded):
    with pytest.raises(ValueError, match=message):
        RewardSum.from_options(reward if callable(reward) else [reward], None).evaluate(
            *graded, per_position=not callable(reward)
        )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="choose one of: linear, exponential"):
        NDCG(gain="exp")
    with pytest.raises(ValueError, match=r"Recall\.k must be at least 1, got 0"):
        Recall(k=0)
    with pytest.raises(ValueError, match="reward_weights has 1 values for 2 rewards"):
        RewardSum.from_options([NDCG(), MRR()], [1.0])


DECLARED = [
    (policy, reward)
    for policy, module in ((PlackettLuceGRPO(num_generations=32), rewards), (SubsetGRPO(k=1), set_rewards))
    for reward in vars(module).values()
    if is_dataclass(reward) and "__call__" in dir(reward) and not inspect.isabstract(reward)
]


@pytest.mark.parametrize(("policy", "reward"), DECLARED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_reward_that_reads_relevance_says_so(policy: Any, reward: Any):
    """On degrees of similarity it is the same for all actions; then, and only then, its policy needs relevance."""
    policy = replace(policy, reward=reward(k=1) if "k" in reward.__dataclass_fields__ else reward())

    def gradient(labels: list[float]) -> float:
        scores, mask = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3, dtype=torch.bool)
        actions = policy.sample(scores, mask, seeds=[0])
        value, _ = policy(scores, torch.tensor([labels]), mask, actions=actions, old_scores=scores.detach())
        return float(torch.autograd.grad(value, scores)[0].abs().max())

    assert gradient([1.0, 0.0, 0.0]) > 0.01
    trained = gradient([0.9, 0.4, 0.1]) > 1e-4
    assert requirements(policy) == ({"comparison"} if trained else {"relevance"})


def test_a_sum_of_rewards_needs_what_each_of_them_needs():
    assert requirements(PlackettLuceGRPO(reward=[NDCG(), partial(Recall(k=3))], reward_to_go=False)) == {"relevance"}
    assert requirements(PlackettLuceGRPO(reward=lambda *_: torch.zeros(()), reward_to_go=False)) == {"comparison"}
