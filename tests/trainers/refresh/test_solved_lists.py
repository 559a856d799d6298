"""GRPO: lists whose rewards are all equal are replaced by fresh ones, counted, and the same after a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from running import make_trainer, metrics_of, run_several, run_to_the_end, run_until

from data.hashing import stable_hash
from engines.distributed.testing import run_ranks
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.policies.token_policy import TokenPolicyGRPO

STEPS = 8
# Scores far apart, so that the policy often samples one ranking only.
GRPO = [
    "+exp=reranker_grpo",
    f"trainer.max_steps={STEPS}",
    "trainer.eval_every=4",
    "trainer.num_iterations=2",
    "trainer.refresh_every=4",
    "trainer.refresh_attempts=3",
    "data.lists.hard_depth=4",
    "data.lists.random_fraction=0.4",
    "loss.temperature=0.02",
    "loss.num_generations=4",
]


class Watched:
    """A run that notes each batch as loaded and as trained on, and its statistics."""

    def __init__(self, settings: list[str]) -> None:
        self.trainer = trainer = make_trainer(settings)
        self.loaded: dict[int, Any] = {}
        self.trained: dict[int, Any] = {}
        replace, objective = trainer.solved_lists.replace, trainer.objective
        self.equal: dict[int, list[bool]] = {}

        def noted(batch: Any, loss: Any) -> Any:
            self.loaded[batch.number] = batch
            return replace(batch, loss)

        def recorded(lists: Any, batch: Any) -> Any:
            step = trainer.state.step
            self.trained[step] = batch
            loss = trainer.loss_of(batch)
            result = objective(lists, batch)
            seeds = self.seeds(batch.number, len(batch.examples))
            actions = loss.sample(mask=lists.mask, seeds=seeds, **trainer.old)
            rewards = loss.compute_rewards(actions, lists.labels, lists.mask).total
            self.equal[step] = [len(set(values)) == 1 for values in rewards.tolist()]
            return result

        trainer.solved_lists.replace, trainer.objective = noted, recorded
        trainer.fit()

    def seeds(self, batch: int, size: int) -> list[int]:
        return [stable_hash("rankings", self.trainer.seed, batch, index) for index in range(size)]


def lines_of(trainer: Any) -> list[dict[str, Any]]:
    return [line for line in metrics_of(trainer) if line["split"] == "train"]


def test_solved_lists_are_replaced_and_counted(tiny_run: list[str]) -> None:
    run = Watched([*tiny_run, *GRPO])
    lines = lines_of(run.trainer)
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    kinds: set[str] = set()
    for line in lines:
        batch, loaded = run.trained[line["step"]], run.loaded[(line["step"] - 1) // 2]
        pairs = list(zip(loaded.examples, batch.examples, strict=True))
        fresh = [place for place, (old, new) in enumerate(pairs) if old is not new]
        assert line["replaced_lists"] == len(fresh) <= line["solved_lists"] <= len(pairs)
        equal = run.equal[line["step"]]
        assert not any(equal[place] for place in fresh), "a fresh list teaches"
        assert line["frac_reward_zero_std"] == pytest.approx(sum(equal) / len(equal))
        assert sum(equal) == line["solved_lists"] - len(fresh)
        kinds |= {"same query" if pairs[p][0].query_id == pairs[p][1].query_id else "other query" for p in fresh}
        assert len({example.query_id for example in batch.examples}) == len(batch.examples)
    assert kinds == {"same query", "other query"}
    again = [line["replaced_lists"] for line in lines]
    assert again[::2] == again[1::2], "the updates of a batch count the same lists"


def test_fresh_lists_have_no_random_negatives(tiny_run: list[str]) -> None:
    (lists,) = make_trainer([*tiny_run, *GRPO, "trainer.list_size=4"]).batches.loader.lists.sources.values()
    query = next(name for name in lists.query_ids if len(lists.first_stage[name]) > 6)
    hard = {name for name, _ in lists.first_stage[query][:5]} | set(lists.relevant(query))
    drawn = [lists.sample(0, query, attempt) for attempt in range(1, 8)]
    assert all(set(names) <= hard for names in drawn)
    assert len({tuple(names) for names in drawn}) > 1
    assert any(not set(lists.sample(epoch, query)) <= hard for epoch in range(10))


def test_without_attempts_nothing_is_replaced(tiny_run: list[str]) -> None:
    trainer = make_trainer([*tiny_run, *GRPO, "trainer.refresh_attempts=0"])
    trainer.fit()
    assert not any("solved_lists" in line for line in lines_of(trainer))
    assert [line["refreshed_step"] for line in lines_of(trainer)] == [0] * 4 + [4] * 4


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_run_stopped_at_any_step(step: int, tiny_run: list[str]) -> None:
    """Also between the two updates of a batch, whose replaced lists are drawn again."""
    settings = [*tiny_run, *GRPO, "trainer.save_every=1"]
    whole, weights = run_to_the_end([*settings, "run_name=whole"])
    assert any(line.get("replaced_lists") for line in whole)
    run_until([([*settings, "run_name=stopped"], step)])
    again, found = run_to_the_end([*settings, "run_name=stopped"])
    assert again == whole
    assert all((found[name] == weights[name]).all() for name in weights)


def test_an_embedder_replaces_lists_too(tiny_run: list[str]) -> None:
    options = ["+exp=embedder_grpo", "eval=reranking", "eval.depth=8", *GRPO[1:], "loss.temperature=0.002"]
    lines = lines_of(Watched([*tiny_run, *options]).trainer)
    assert any(line["replaced_lists"] for line in lines)


def test_two_ranks_equal_one(tiny_run: list[str]) -> None:
    def runs(*options: str) -> list[list[str]]:
        return [[*tiny_run, *GRPO, "loss.temperature=0.1", *options]]

    ((alone, _),) = run_ranks(run_several, 1, runs("run_name=one"), timeout_s=280)[0]
    ((first, _),), ((second, _),) = run_ranks(run_several, 2, runs("run_name=two", "engine=zero2"), timeout_s=280)
    assert first == second
    assert any(line.get("replaced_lists") for line in alone)
    for one, two in zip(alone, first, strict=True):
        for name in one.keys() & {"solved_lists", "replaced_lists", "refreshed_step", "nDCG@10"}:
            assert one[name] == two[name], (name, one, two)
        assert two.get("reward_mean", 0) == pytest.approx(one.get("reward_mean", 0), rel=1e-5)


def test_equal_rewards_of_lists_and_of_their_documents() -> None:
    """A token policy has a group per document: a list is solved if all of its groups are."""
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    rankings = PlackettLuceGRPO(num_generations=2)
    scores = torch.tensor([[1e4, 0.0], [0.0, 0.0], [0.0, 0.0]])
    actions = rankings.sample(scores, mask, seeds=[1, 3, 5])
    rewards = rankings.compute_rewards(actions, labels, mask).total
    expected = [bool((values == values[0]).all()) for values in rewards]
    assert rankings.equal_rewards(actions, labels, mask).tolist() == expected
    assert expected[0]
    answers = torch.tensor([[[0, 0], [1, 1]], [[0, 1], [0, 0]], [[1, 1], [0, 1]]])  # the last is padding
    assert TokenPolicyGRPO(num_generations=2).equal_rewards(answers, labels, mask).tolist() == [True, False, True]
