"""The work of a rank in a step: what falls with the ranks, what stays, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.torch_engine import TorchEngineConfig
from launch.cli.compose import load
from losses.contracts import MatrixLoss
from losses.weighted_sum import Term, WeightedSum
from recipes.cost_plan.estimate import objective_bytes
from recipes.cost_plan.step_work import FROZEN_ROW_BYTES, ROW_BYTES, TOKEN_BYTES, StepWork, step_work
from recipes.cost_plan.workload import Workload, build_workload
from recipes.preparation import prepare

DIMENSION, LISTS, LIST_SIZE, TOKENS = 32, 8, 3, 20


@pytest.fixture(scope="module")
def embedder(tiny_overrides: Any, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    sizes = [
        f"trainer.batch_size={LISTS}",
        f"trainer.list_size={LIST_SIZE}",
        "trainer.token_budget=80",
        "eval.depth=100",
    ]
    settings = load(["+exp=embedder_infonce", *tiny_overrides(tmp_path_factory.mktemp("run")), *sizes])
    workload = build_workload(settings, None, autocast=None)
    assert workload.dimension == DIMENSION
    return replace(workload, batches=[[TOKENS] * (LISTS * (LIST_SIZE + 1))] * 2)


def work(
    workload: Workload, ranks: int, *, rank: int = 0, kept: int = 99, engine: Any = None, **options: Any
) -> StepWork:
    """The work of a rank with other options of the trainer, or another `loss`."""
    settings = workload.settings
    loss = options.pop("loss", settings.loss)
    workload = replace(workload, settings=replace(settings, loss=loss, trainer=replace(settings.trainer, **options)))
    arguments: Any = {"kept_chunks": kept, "device": "cuda", "ranks_per_node": 2}
    return step_work(workload, engine or TorchEngineConfig(), ranks, rank=rank, **arguments)


def test_chunks_and_the_objective_are_divided(embedder: Workload) -> None:
    alone, four = work(embedder, 1), work(embedder, 4)
    assert (alone.chunks, four.chunks) == (8, 2)
    assert four.forward_flops == pytest.approx(alone.forward_flops / 4)
    assert four.backward_flops == pytest.approx(alone.backward_flops / 4)
    assert alone.objective_flops == 4 * 2 * LISTS * (LISTS * LIST_SIZE) * DIMENSION
    assert four.objective_flops == alone.objective_flops / 4
    assert alone.traffic == ()
    assert four.update_bytes == alone.update_bytes


def test_a_rank_without_a_last_chunk_computes_less(embedder: Workload) -> None:
    alone, ranks = work(embedder, 1), [work(embedder, 3, rank=rank) for rank in range(3)]  # 8 chunks
    assert [each.forward_flops for each in ranks] == pytest.approx([alone.forward_flops * n / 8 for n in (3, 3, 2)])
    assert [each.backward_flops for each in ranks] == pytest.approx([alone.backward_flops * n / 8 for n in (3, 3, 2)])


def test_token_vectors_are_counted_like_as_many_embeddings(embedder: Workload) -> None:
    several = replace(embedder, query_vectors=4.0, document_vectors=10.0)
    one, found = work(embedder, 4), work(several, 4)
    assert found.objective_flops == one.objective_flops * 4 * 10
    assert found.received["texts"] == one.received["texts"] * 10
    vectors = LISTS * (4 + LIST_SIZE * 10)
    assert found.received["representations"] == pytest.approx(4 * DIMENSION * vectors / 4 * 0.75)
    assert found.forward_flops == one.forward_flops
    assert objective_bytes(several, 1) == objective_bytes(embedder, 1) * vectors / (LISTS * (LIST_SIZE + 1))


def test_late_interaction_has_a_vector_per_token(tiny_overrides: Any, tmp_path: Path) -> None:
    sizes = ["eval.depth=100", "model.dimension=16", "model.query_length=12"]
    settings = load(["+exp=colbert_infonce", *tiny_overrides(tmp_path), *sizes])
    without_data, read = (
        build_workload(settings, None, autocast=None),
        build_workload(settings, prepare(settings).training[0], autocast=None),
    )
    assert (without_data.query_vectors, without_data.document_vectors) == (48, 48), "the model's maximum length"
    assert (read.dimension, read.query_vectors) == (16, 12)
    assert 12 < read.document_vectors < 48
    assert read.mean_vectors > 2 * read.mean_rows


def test_chunks_that_are_not_kept_run_twice(embedder: Workload) -> None:
    kept, recomputed = work(embedder, 2), work(embedder, 2, kept=1)
    assert recomputed.forward_flops == pytest.approx(kept.forward_flops * (4 + 3) / 4)
    assert recomputed.backward_flops == kept.backward_flops


def test_a_rank_receives_its_own_tokens_and_the_texts_of_all(embedder: Workload) -> None:
    rows, parameters = LISTS * (LIST_SIZE + 1), embedder.parameters
    found = work(embedder, 4).received
    features = len(embedder.features) - 1
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


def test_negatives_of_fewer_ranks_are_fewer_texts(embedder: Workload) -> None:
    whole, node, rank = (work(embedder, 4, negatives=name) for name in ("global", "node", "rank"))
    assert node.objective_flops == whole.objective_flops / 2
    assert rank.objective_flops == whole.objective_flops / 4
    assert node.received["texts"] == pytest.approx(4 * DIMENSION * LISTS * LIST_SIZE / 2 * 0.5)
    assert "texts" not in rank.received
    assert rank.received["gradients"] == whole.received["gradients"]


class UsersLoss(MatrixLoss):
    """A loss with in-batch negatives that knows nothing of shares."""

    in_batch_negatives: ClassVar[bool] = True  # type: ignore[misc]

    def __call__(self, queries: Tensor, documents: Tensor, *_: Any, **__: Any) -> Tensor:
        raise NotImplementedError


def test_a_loss_that_is_not_divided_keeps_its_products_and_reads_all(embedder: Workload) -> None:
    alone, four = (work(embedder, ranks, loss=UsersLoss()) for ranks in (1, 4))
    assert alone.objective_flops == work(embedder, 1).objective_flops
    assert four.objective_flops == alone.objective_flops
    assert work(embedder, 4, loss=UsersLoss(), negatives="rank").objective_flops == alone.objective_flops
    assert four.received["outputs"] == pytest.approx(4 * DIMENSION * LISTS * (LIST_SIZE + 1) * 0.75)
    assert "texts" not in four.received
    both = work(embedder, 4, loss=WeightedSum({"own": Term(embedder.settings.loss), "whole": Term(UsersLoss())}))
    assert both.objective_flops == pytest.approx(1.25 * alone.objective_flops)
    assert both.received == pytest.approx(work(embedder, 4).received | four.received)


GUIDE = ["loss=gist", "model@guide=bi_encoder", "guide.name_or_path=MODEL", "guide.max_length=48", "eval.depth=100"]
POLICY = ["trainer.reference=frozen", "loss.beta=0.1", "trainer.num_iterations=4"]
FROZEN = {  # options, and how often the frozen model runs in a step
    "teacher": (["+exp=reranker_distill", "teacher.name_or_path=MODEL", "teacher.max_length=48"], 1.0),
    "guide": (["+exp=embedder_infonce", *GUIDE], 1.0),
    "reference": (["+exp=reranker_preference", "trainer.reference=frozen"], 1.0),
    "reference of a policy": (["+exp=reranker_grpo", *POLICY], 0.25),
}


@pytest.mark.parametrize("case", FROZEN)
def test_a_frozen_model_adds_its_forwards_and_what_it_exchanges(
    case: str, tiny_run: list[str], tiny_bert_dir: Path, tiny_reranker_dir: Path
) -> None:
    """It is the model that is trained: so its forwards and rows are the same again."""
    role, (options, times) = case.split()[0], FROZEN[case]
    folder = str(tiny_bert_dir if role == "guide" else tiny_reranker_dir)
    options = [option.replace("MODEL", folder) for option in (*options, "model.name_or_path=MODEL")]
    settings = load([options[0], *tiny_run, *options[1:]])
    workload = build_workload(settings, settings.data.build(), autocast=None)
    assert list(workload.frozen) == [role]
    if role != "guide":  # in whose layout a query may be equal to a document
        assert workload.frozen[role].batches == workload.batches
    lists, rows = settings.trainer.batch_size, 24
    same = {"batches": [[TOKENS] * rows]}
    workload = replace(workload, **same, frozen={role: replace(workload.frozen[role], **same)})
    for ranks in (1, 2):
        added, alone = work(workload, ranks), work(replace(workload, frozen={}), ranks)
        assert alone.forward_flops > 0
        assert added.forward_flops == pytest.approx((1 + times) * alone.forward_flops)
        assert (added.backward_flops, added.chunks) == (alone.backward_flops, alone.chunks)
    more = {name: size - alone.received.get(name, 0) for name, size in added.received.items()}
    expected = {name: times * alone.received[name] for name in ("tokens", "representations")}
    if role == "reference":
        expected["outputs"] = times * 4 * lists * settings.trainer.list_size / 2
    else:
        expected["lists"] = FROZEN_ROW_BYTES * rows / 2
    if role == "guide":
        expected["texts"] = 4 * DIMENSION * (rows - lists) / 2
    assert {name: size for name, size in more.items() if size} == pytest.approx(expected)
    products = 2 * 2 * lists / 2 * (rows - lists) * DIMENSION if role == "guide" else 0
    assert added.objective_flops - alone.objective_flops == pytest.approx(products)


def test_a_reference_without_adapters_gathers_weights_again(tiny_run: list[str], tiny_reranker_dir: Path) -> None:
    lora = ["model=cross_encoder_lora", f"model.name_or_path={tiny_reranker_dir}", "trainer.reference=frozen"]
    settings = load(["+exp=reranker_preference", *tiny_run, *lora])
    workload = build_workload(settings, None, autocast=None)
    assert workload.frozen_bytes == 0
    engine = DeepSpeedEngineConfig(stage=3)
    added, alone = (work(each, 2, engine=engine) for each in (workload, replace(workload, frozen={})))
    assert added.received["weights"] == pytest.approx(1.5 * alone.received["weights"])
    assert alone.forward_flops < added.forward_flops < 2 * alone.forward_flops, "its adapters do not run"


def test_a_frozen_model_runs_in_steps_of_losses_that_read_it(embedder: Workload) -> None:
    rows = replace(embedder, batches=[embedder.batches[0], []], on_engine=False)
    alone, added = work(embedder, 2), work(replace(embedder, frozen={"guide": rows}), 2)
    assert added.forward_flops == pytest.approx(1.5 * alone.forward_flops)
