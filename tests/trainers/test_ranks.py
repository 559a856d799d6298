"""Any engine on 2 ranks trains as one process does: reward, loss, gradient norm, checksum per step, final weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from running import run_several

from engines.distributed.testing import run_ranks

STEPS = 10
GRPO = ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.num_generations=16", "loss.beta=0.1"]
SUPERVISED = ["+exp=reranker_contrastive"]  # with dropout: every chunk's is keyed by what it is
# With duplicates to mask over the ranks, and a temperature that is learned.
EMBEDDER = [
    "+exp=embedder_infonce",
    "data.lists.no_duplicates=false",
    "loss.temperature=null",
    "model.temperature=0.05",
    "model.learn_temperature=true",
    "eval.depth=100",
]
COMPARED = ("loss", "grad_norm", "score_checksum", "reward_mean", "kl", "nDCG@10")
SCORE_SIZES = (1, 1, 20)  # of GRPO, SUPERVISED, EMBEDDER, whose scores are cosines / temperature


Runs = list[tuple[list[dict[str, float]], dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]]) -> Runs:
    """The runs of one process."""
    return run_ranks(run_several, 1, runs(tiny_overrides(tmp_path_factory.mktemp("one")), "torch"), timeout_s=280)[0]


def runs(tiny_run: list[str], engine: str) -> list[list[str]]:
    common = [
        f"trainer.max_steps={STEPS}",
        "trainer.eval_every=5",
        f"engine={engine}",
        *tiny_run,
        "trainer.token_budget=100",
    ]
    return [[*common, f"run_name={i}", *options] for i, options in enumerate((GRPO, SUPERVISED, EMBEDDER))]


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1", "zero2", "zero3"])
def test_two_ranks_equal_one(engine: str, tiny_run: list[str], one_process: Runs) -> None:
    several = run_ranks(run_several, 2, runs(tiny_run, engine), timeout_s=280)
    for (expected, weights), (found, found_weights), (_, other_rank), size in zip(
        one_process, several[0], several[1], SCORE_SIZES, strict=True
    ):
        assert len(found) == len(expected) == STEPS + 3
        for one, two in zip(expected, found, strict=True):
            assert one.keys() == two.keys()
            for name in one.keys() & {*COMPARED}:
                # A checksum adds scores of either sign: where they cancel, the rounding of each stays.
                floor = 1e-5 * (size if name == "score_checksum" else 1)
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=floor), (name, one, two)
        torch.testing.assert_close(found_weights, weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other_rank, found_weights, rtol=0, atol=0)


def test_the_runs_compared_are_not_trivial(one_process: Runs) -> None:
    (grpo, _), (supervised, _), (embedder, weights) = one_process
    trained = [line for line in grpo if line["split"] == "train"]
    assert min(line["num_chunks"] for line in trained) > 2, "ranks must share the step, and chunks be recomputed"
    assert any(line["kl"] > 0 for line in trained)
    assert len({line["grad_norm"] for line in trained}) == STEPS
    for run in (supervised, embedder):
        assert len({line["loss"] for line in run if line["split"] == "train"}) == STEPS
    assert min(line["num_chunks"] for line in embedder if line["split"] == "train") > 2
    assert max(line["repeated_share"] for line in embedder if line["split"] == "train") > 0, "texts that run once"
    assert weights["scale.log_scale"].exp().item() != pytest.approx(20.0, rel=1e-4)
