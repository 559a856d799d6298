"""A static embedder trains by every objective, on any ranks, engine and chunks, as one process does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import gradient_cases as cases
import pytest
import torch
from gradient_cases import Case, Result
from running import run_several
from test_gradients import TOLERANCE, assert_equal_to_one_process, relative_error
from torch import Tensor

from engines.distributed.testing import run_ranks
from losses.contracts import LossInputs, compute_loss, is_policy
from losses.info_nce import InfoNCE
from losses.kl_distillation import KLDistillation
from losses.lambda_loss import LambdaLoss
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.rewards import NDCG
from models.static.embedder import StaticEmbedderConfig
from trainers.refresh.solved_lists import action_seeds

STEPS = 3
LOSSES = {
    "info_nce": InfoNCE(temperature=None),
    "distillation": KLDistillation(),
    "listwise": LambdaLoss(),
    "policy": PlackettLuceGRPO(temperature=0.3, reward=NDCG(k=10)),
}
VALUES = {
    "ranks": (1, 2, 4),
    "engine": ("torch", "zero2", "zero3"),
    "accumulation": (1, 4),
    "kept": ("whole", "chunked"),
    "dropout": (0.0,),
    "negatives": ("0", "2", "ragged"),
    "loss": tuple(LOSSES),
}
FEW = [
    Case(ranks, engine, chunks, kept, 0.0, negatives, loss)
    for ranks, engine, chunks, kept, negatives, loss in (
        (1, "torch", 4, "chunked", "ragged", "policy"),
        (1, "zero2", 4, "whole", "0", "distillation"),
        (1, "zero3", 1, "whole", "2", "info_nce"),
        (2, "torch", 1, "whole", "0", "info_nce"),
        (2, "torch", 4, "chunked", "ragged", "distillation"),
        (2, "zero2", 1, "chunked", "2", "policy"),
        (2, "zero2", 4, "whole", "ragged", "info_nce"),
        (2, "zero3", 4, "whole", "2", "listwise"),
        (4, "torch", 1, "chunked", "2", "listwise"),
        (4, "zero2", 4, "chunked", "ragged", "listwise"),
        (4, "zero3", 4, "chunked", "0", "info_nce"),
        (4, "zero3", 1, "whole", "ragged", "policy"),
    )
]
OBJECTIVES = {
    "in-batch": ["+exp=static_infonce", "data.lists.no_duplicates=false"],
    "distilled": ["+exp=embedder_distill", "model=static_embedder", "model.temperature=0.05"],
    "listwise": ["+exp=static_infonce", "loss=softmax_cross_entropy", "trainer=ranking"],
    "policy": ["+exp=embedder_grpo", "model=static_embedder", "model.temperature=0.05"],
}


@pytest.fixture(scope="module")
def static_dir(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static") / "model"
    StaticEmbedderConfig(str(tiny_bert_dir), start="random", dimension=32).build(seed=0).export(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LOSSES", "compute_loss"):
        monkeypatch.setattr(cases, name, getattr(cases, name))
    use_own_losses()
    cases._reference.cache_clear()
    yield
    cases._reference.cache_clear()


def use_own_losses() -> None:
    cases.LOSSES, cases.compute_loss = LOSSES, first_update


def first_update(loss: Any, lists: LossInputs) -> tuple[Tensor, Any]:
    """The loss of lists; of a policy, that of the first update on the actions that it samples, whose value is 0 but for
    rounding, so the mean reward is added."""
    if not is_policy(loss):
        return compute_loss(loss, lists)
    share, scores = lists.share, lists.list_scores()
    seeds = action_seeds(cases.SEED, 0, share.own(cases.NUM_LISTS).tolist())
    actions = loss.sample(scores.detach(), lists.mask, seeds)
    shared = {} if share.is_whole else {"share": share}
    value, statistics = loss(scores, lists.labels, lists.mask, actions=actions, old_scores=scores.detach(), **shared)
    return value + statistics["reward_mean"].detach(), statistics


def measure_own(folder: Path, chosen: list[Case]) -> list[Result]:
    use_own_losses()
    return cases.measure_all(folder, chosen)


def all_cases() -> list[Case]:
    """All but those of lists of one document by losses that compare the documents of a list: they have no gradient."""
    found = [Case(*values) for values in product(*VALUES.values())]
    return [case for case in found if case.negatives != "0" or case.loss in ("info_nce", "distillation")]


@pytest.mark.parametrize("ranks", VALUES["ranks"])
def test_gradients_and_weights_are_those_of_one_process(ranks: int, static_dir: Path) -> None:
    check(static_dir, ranks, [case for case in FEW if case.ranks == ranks])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", VALUES["engine"])
@pytest.mark.parametrize("ranks", VALUES["ranks"])
def test_all_gradients_are_those_of_one_process(ranks: int, engine: str, static_dir: Path) -> None:
    check(static_dir, ranks, [case for case in all_cases() if (case.ranks, case.engine) == (ranks, engine)])


def check(folder: Path, ranks: int, chosen: list[Case]) -> None:
    for case, result in zip(chosen, run_ranks(measure_own, ranks, folder, chosen, timeout_s=7000)[0], strict=True):
        assert_equal_to_one_process(folder, case, result)


def test_the_references_differ_where_they_must(static_dir: Path) -> None:
    assert {case.loss for case in all_cases()} == set(LOSSES)
    own = [case for case in FEW if case.negatives == "2"]
    found = {case.loss: cases.reference(static_dir, case, unchunked=True)[1] for case in own}
    for first, second in combinations(found.values(), 2):
        assert relative_error(first, second) > 100 * TOLERANCE
    read = found["info_nce"]["tower.embedding.weight"].any(1)
    assert 0 < read.sum() < len(read), "rows of tokens that no text has get no gradient"


@pytest.mark.parametrize("engine", ["torch", "zero2"])
def test_every_objective_on_two_ranks(
    engine: str,
    static_dir: Path,
    tiny_reranker_dir: Path,
    tiny_overrides: Callable[[Path], list[str]],
    tmp_path: Path,
) -> None:
    def runs(name: str) -> list[list[str]]:
        common = [f"trainer.max_steps={STEPS}", f"trainer.eval_every={STEPS}", *tiny_overrides(tmp_path / name)]
        ends = [f"model.name_or_path={static_dir}", "trainer.token_budget=100", "eval.depth=100", f"engine={engine}"]
        own = {"distilled": [f"teacher.name_or_path={tiny_reranker_dir}", "teacher.max_length=48"]}
        return [
            [*options, *common, *ends, *own.get(kind, []), f"run_name={kind}"] for kind, options in OBJECTIVES.items()
        ]

    one = run_ranks(run_several, 1, runs("one"), timeout_s=280)[0]
    for kind, (metrics, weights), (found, found_weights) in zip(
        OBJECTIVES, one, run_ranks(run_several, 2, runs("two"), timeout_s=280)[0], strict=True
    ):
        trained = [line for line in metrics if line["split"] == "train"]
        assert len({line["grad_norm"] for line in trained}) == STEPS, kind
        assert min(line["num_chunks"] for line in trained) > 2
        for expected, line in zip(metrics, found, strict=True):
            for name in expected.keys() & {"loss", "grad_norm", "reward_mean", "nDCG@10"}:
                assert line[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), (kind, name)
        torch.testing.assert_close(found_weights, weights, rtol=1e-5, atol=1e-6)
