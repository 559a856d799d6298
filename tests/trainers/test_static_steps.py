"""A static embedder trains by every objective, and on 2 ranks, in chunks, as one process does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gradient_cases import Case, measure_all, reference
from running import run_several
from test_gradients import assert_equal_to_one_process

from engines.distributed.testing import run_ranks
from models.static.embedder import StaticEmbedderConfig

STEPS = 3
CASES = [
    Case(ranks, engine, chunks, kept, 0.0, negatives, loss)
    for ranks, engine, chunks, kept, negatives, loss in (
        (2, "torch", 1, "whole", "2", "info_nce"),
        (2, "torch", 4, "chunked", "ragged", "distillation"),
        (2, "torch", 4, "whole", "0", "symmetric"),
        (2, "zero2", 1, "whole", "ragged", "matryoshka"),
        (2, "zero2", 4, "chunked", "2", "info_nce"),
        (2, "zero3", 4, "whole", "2", "info_nce"),
        (1, "torch", 4, "chunked", "ragged", "matryoshka"),
        (1, "zero2", 4, "whole", "0", "distillation"),
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


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_and_weights_are_those_of_one_process(ranks: int, static_dir: Path) -> None:
    cases = [case for case in CASES if case.ranks == ranks]
    for case, result in zip(cases, run_ranks(measure_all, ranks, static_dir, cases, timeout_s=280)[0], strict=True):
        assert_equal_to_one_process(static_dir, case, result)


def test_the_references_differ_where_they_must(static_dir: Path) -> None:
    _, gradients, _ = reference(static_dir, CASES[0], unchunked=False)
    name = "tower.embedding.weight"
    read = gradients[name].any(1)
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
