"""The work of a rank in a step: what falls with the ranks, what stays, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engines.torch_engine import TorchEngineConfig
from launch.cli.compose import load
from recipes.cost_plan.operations import FlopsOfChunks
from recipes.cost_plan.step_work import ROW_BYTES, TOKEN_BYTES, StepWork, step_work
from recipes.cost_plan.workload import Workload, build_workload

DIMENSION, LISTS, LIST_SIZE, TOKENS = 32, 8, 3, 20


@pytest.fixture(scope="module")
def embedder(tiny_overrides: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workload, FlopsOfChunks]:
    sizes = [
        f"trainer.batch_size={LISTS}",
        f"trainer.list_size={LIST_SIZE}",
        "trainer.token_budget=80",
        "eval.depth=100",
    ]
    settings = load(["+exp=embedder_infonce", *tiny_overrides(tmp_path_factory.mktemp("run")), *sizes])
    workload = build_workload(settings, None, autocast=None)
    workload = replace(workload, batches=[[TOKENS] * (LISTS * (LIST_SIZE + 1))] * 2)
    assert workload.dimension == DIMENSION
    return workload, FlopsOfChunks(workload.model, workload.features, workload.chunk_shapes(workload.batches[0]))


def work(
    embedder: tuple[Workload, FlopsOfChunks], ranks: int, *, negatives: str = "global", kept: int = 99
) -> StepWork:
    workload, flops = embedder
    trainer = replace(workload.settings.trainer, negatives=negatives)
    workload = replace(workload, settings=replace(workload.settings, trainer=trainer))
    options: Any = {"kept_chunks": kept, "device": "cuda", "ranks_per_node": 2}
    return step_work(workload, TorchEngineConfig(), ranks, flops, **options)


def received(of: StepWork) -> dict[str, float]:
    return {each.name: each.num_bytes for each in of.traffic}


def test_chunks_and_the_objective_are_divided(embedder: tuple[Workload, FlopsOfChunks]) -> None:
    alone, four = work(embedder, 1), work(embedder, 4)
    assert (alone.chunks, four.chunks) == (8, 2)
    assert four.forward_flops == pytest.approx(alone.forward_flops / 4)
    assert four.backward_flops == pytest.approx(alone.backward_flops / 4)
    assert alone.objective_flops == 4 * 2 * LISTS * (LISTS * LIST_SIZE) * DIMENSION
    assert four.objective_flops == alone.objective_flops / 4
    assert alone.traffic == ()
    assert four.update_bytes == alone.update_bytes


def test_chunks_that_are_not_kept_run_twice(embedder: tuple[Workload, FlopsOfChunks]) -> None:
    kept, recomputed = work(embedder, 2), work(embedder, 2, kept=1)
    assert recomputed.forward_flops == pytest.approx(kept.forward_flops * (4 + 3) / 4)
    assert recomputed.backward_flops == kept.backward_flops


def test_a_rank_receives_its_own_tokens_and_the_texts_of_all(embedder: tuple[Workload, FlopsOfChunks]) -> None:
    rows, parameters = LISTS * (LIST_SIZE + 1), embedder[0].parameters
    found = received(work(embedder, 4))
    features = len(embedder[0].features) - 1
    own = 4 * DIMENSION * rows / 4 * 0.75
    texts = 4 * DIMENSION * LISTS * LIST_SIZE * 0.75
    assert found == pytest.approx(
        {
            "gradients": 4 * parameters.trainable * 1.5,
            "lists": ROW_BYTES * rows * 0.75,
            "tokens": TOKEN_BYTES * features * TOKENS * rows / 4 * 0.75,
            "representations": own,
            "representation_gradients": own,
            "texts": texts,
            "text_gradients": texts,
        }
    )


def test_negatives_of_fewer_ranks_are_fewer_texts(embedder: tuple[Workload, FlopsOfChunks]) -> None:
    whole, node, rank = (work(embedder, 4, negatives=name) for name in ("global", "node", "rank"))
    assert node.objective_flops == whole.objective_flops / 2
    assert rank.objective_flops == whole.objective_flops / 4
    assert received(node)["texts"] == pytest.approx(4 * DIMENSION * LISTS * LIST_SIZE / 2 * 0.5)
    assert "texts" not in received(rank)
    assert received(rank)["gradients"] == received(whole)["gradients"]
