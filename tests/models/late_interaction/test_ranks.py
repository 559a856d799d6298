"""Late interaction trains the same on one process and on ranks, by InfoNCE, distillation and GRPO: values and weights.
(Gradients of one step, of every objective on every engine: test_late_gradients.)

Token vectors cross ranks as ragged rows; the texts of other ranks come by in blocks; their gradients go back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from running import run_several

from engines.distributed.testing import run_ranks
from losses.math import tiles

STEPS = 4
EXPERIMENTS = {
    # With dropout, duplicates to mask over the ranks, and two directions of comparison.
    "infonce": [
        "+exp=colbert_infonce",
        "data.lists.no_duplicates=false",
        "loss.directions=[query_to_doc,doc_to_query]",
    ],
    "distill": ["+exp=colbert_distill", "teacher.max_length=48", "model.learn_temperature=true"],
    "grpo": ["+exp=colbert_grpo", "trainer.num_iterations=2", "loss.num_generations=8", "loss.beta=0.1"],
}
COMPARED = ("loss", "grad_norm", "score_checksum", "reward_mean", "kl", "nDCG@10")
QUICK = ["infonce", "grpo"]
Runs = list[tuple[list[dict[str, float]], dict[str, torch.Tensor]]]


def settings(name: str, engine: str, tiny_run: list[str], teacher: Path, number: int) -> list[str]:
    own = [f"teacher.name_or_path={teacher}"] if name == "distill" else []
    common = [f"trainer.max_steps={STEPS}", "trainer.eval_every=2", f"engine={engine}", f"run_name={number}"]
    small = ["model.dimension=16", "model.query_length=12", "eval.depth=100", "trainer.token_budget=100"]
    return [*EXPERIMENTS[name], *tiny_run, *common, *small, "trainer.learning_rate=0.02", *own]


def run_in_blocks(runs: list[list[str]]) -> Runs:
    """Run with so small blocks that each has a few texts of every rank."""
    tiles.BYTES_PER_BLOCK = 2**12
    found: Runs = run_several(runs)
    return found


@pytest.fixture(scope="module")
def one_process(
    tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]], tiny_reranker_dir: Path
) -> Callable[[tuple[str, ...]], Any]:
    """The results of some experiments on one process, by name."""

    @cache
    def of(names: tuple[str, ...]) -> dict[str, Any]:
        folder = tiny_overrides(tmp_path_factory.mktemp("one"))
        runs = [settings(name, "torch", folder, tiny_reranker_dir, number) for number, name in enumerate(names)]
        return dict(zip(names, run_ranks(run_in_blocks, 1, runs, timeout_s=280)[0], strict=True))

    return of


def assert_equal_to_one_process(
    names: list[str], engine: str, ranks: int, tiny_run: list[str], teacher: Path, one_process: dict[str, Any]
) -> None:
    runs = [settings(name, engine, tiny_run, teacher, number) for number, name in enumerate(names)]
    several = run_ranks(run_in_blocks, ranks, runs, timeout_s=280)
    for number, name in enumerate(names):
        (expected, weights), (found, found_weights) = one_process[name], several[0][number]
        assert len(found) == len(expected) > STEPS
        for one, two in zip(expected, found, strict=True):
            for key in one.keys() & {*COMPARED}:
                floor = 1e-5 * (20 if key == "score_checksum" else 1)  # scores of up to 12, added with either sign
                assert two[key] == pytest.approx(one[key], rel=1e-4, abs=floor), (name, key, one, two)
        torch.testing.assert_close(found_weights, weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(several[-1][number][1], found_weights, rtol=0, atol=0)


def test_two_ranks_equal_one(tiny_run: list[str], tiny_reranker_dir: Path, one_process: Any) -> None:
    assert_equal_to_one_process(QUICK, "torch", 2, tiny_run, tiny_reranker_dir, one_process(tuple(QUICK)))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("engine", ["torch", "zero2", "zero3"])
def test_all_engines(ranks: int, engine: str, tiny_run: list[str], tiny_reranker_dir: Path, one_process: Any) -> None:
    expected = one_process(tuple(EXPERIMENTS))
    assert_equal_to_one_process([*EXPERIMENTS], engine, ranks, tiny_run, tiny_reranker_dir, expected)


def test_the_runs_compared_are_not_trivial(one_process: Any) -> None:
    for name, (lines, _) in one_process(tuple(QUICK)).items():
        trained = [line for line in lines if line["split"] == "train"]
        assert len({line["grad_norm"] for line in trained}) == STEPS, name
        assert min(line["num_chunks"] for line in trained) > 2, name
