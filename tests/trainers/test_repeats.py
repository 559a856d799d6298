"""Equal rows of a step run once: values and gradients are those of a step that runs all of them."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradient_cases import ENGINES, SEED, STEP, accumulated_gradients, run_chunks
from running import make_trainer, metrics_of
from torch import Tensor

from data.batch import ListBatch, ListExample, TokenSequences
from data.collate import Collator
from engines.optimizers import OptimizerOptions
from engines.protocol import NotFinite
from inference.score import represent_distinct, represent_sequences
from losses.contracts import compute_loss
from losses.info_nce import InfoNCE
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from trainers.nonfinite import FiniteCheck
from trainers.out_of_memory import ChunkOutOfMemory, detect_out_of_memory
from trainers.step import GradientCache

QUERIES = ["what is python", "green apple", "what is python", "a red train to rank"]
TEXTS = ["a red apple", "python returns the value of a list", "document", "rank the list " * 4, "green apple"]
LISTS = [[0, 1, 2], [1, 3, 4], [1, 0], [0, 2, 0]]  # the texts of each list; one has an equal pair itself


def batch_of(tokenizer: Any) -> ListBatch:
    examples = []
    for number, (query, chosen) in enumerate(zip(QUERIES, LISTS, strict=True)):
        encoding = tokenizer.encode_list(query, [TEXTS[text] for text in chosen])
        examples.append(
            ListExample(
                query_id=f"q{number}",
                document_ids=[f"d{number}.{text}" for text in chosen],
                labels=np.array([1] + [0] * (len(chosen) - 1), dtype=np.float32),
                teacher_scores=np.zeros(len(chosen), dtype=np.float32),
                sequences=TokenSequences.from_encoding(encoding),
                query_hash=number,
                document_hashes=np.array([100 * number + place for place in range(len(chosen))]),
            )
        )
    return ListBatch(0, examples)


def build(kind: str, folders: dict[str, Path], dropout: float = 0.0) -> tuple[Any, Any]:
    """A model and a loss for it."""
    folder = str(folders[kind.removesuffix(" towers")])
    if kind == "cross-encoder":
        return CrossEncoderConfig(folder, max_length=32, dropout=dropout).build(0), SoftmaxCrossEntropy()
    if kind == "llm":
        return LLMRerankerConfig(folder, template="qwen3", max_length=256).build(0), SoftmaxCrossEntropy()
    options = {"temperature": 0.2, "learn_temperature": True, "separate_towers": kind.endswith("towers")}
    return BiEncoderConfig(folder, max_length=32, dropout=dropout, **options).build(0), InfoNCE(temperature=None)


@pytest.fixture(scope="module")
def folders(tiny_bert_dir: Path, tiny_reranker_dir: Path, tiny_causal_dir: Path) -> dict[str, Path]:
    return {"embedder": tiny_bert_dir, "cross-encoder": tiny_reranker_dir, "llm": tiny_causal_dir}


def engine_of(model: Any) -> Any:
    options = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.0)
    schedule = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # noqa: E731
    return ENGINES["torch"].build(model, options, schedule, max_grad_norm=float("inf"))


def step(model: Any, loss: Any, *, merge: bool, kept: int) -> tuple[float, dict[str, Tensor]]:
    engine, batch = engine_of(model), batch_of(model.tokenizer)
    collator = Collator(model.tokenizer.padding, 120)
    value = run_chunks(engine, collator, kept, batch, partial(compute_loss, loss), batch.repeats if merge else None)
    found = accumulated_gradients(engine)
    engine.step()
    return value, found


@pytest.mark.parametrize("kept", [0, 1, 100])
@pytest.mark.parametrize("kind", ["embedder", "embedder towers", "cross-encoder", "llm"])
def test_loss_and_gradient_are_those_of_all_rows(kind: str, kept: int, folders: dict[str, Path]) -> None:
    expected = step(*build(kind, folders), merge=False, kept=kept)
    loss, gradients = step(*build(kind, folders), merge=True, kept=kept)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    difference = torch.cat([(gradients[name] - value).flatten() for name, value in expected[1].items()])
    assert difference.norm() < 3e-6 * torch.cat([value.flatten() for value in expected[1].values()]).norm()
    assert difference.norm() > 0 or kept == 100, "the chunks are others, so that rounding differs"


def plan_of(kind: str, folders: dict[str, Path], dropout: float = 0.0) -> tuple[Any, Any, ListBatch]:
    model, _ = build(kind, folders, dropout)
    batch = batch_of(model.tokenizer)
    cache = GradientCache(engine_of(model), Collator(model.tokenizer.padding, 120), kept_chunks=0, seed=SEED)
    return cache, cache.plan(batch.sequences, STEP, batch.repeats, batch.sequences_per_list), batch


def test_the_plan_has_each_row_once_and_says_what_it_stands_for(folders: dict[str, Path]) -> None:
    _, plan, batch = plan_of("embedder", folders)
    assert len(plan.sequences) == 3 + 5, "different queries, different documents; one query is a document, and apart"
    assert plan.num_rows == len(batch.sequences) == 4 + 11
    assert plan.num_tokens == batch.sequences.lengths.sum() > plan.computed_tokens == plan.sequences.lengths.sum()
    assert sorted(index for chunk in plan.chunks for index in chunk) == list(range(8))
    first = [plan.rows([index])[0] for index in range(8)]
    assert [batch.sequence_ids(row) for row in first[:4]] == [
        ("q0", None), ("q0", "d0.0"), ("q0", "d0.1"), ("q0", "d0.2"),
    ]  # fmt: skip
    _, pairs, batch = plan_of("cross-encoder", folders)
    assert len(pairs.sequences) == 11 - 3, "two pairs of equal queries, and one within a list"


def test_a_batch_of_different_rows_is_run_as_it_is(folders: dict[str, Path]) -> None:
    model, _ = build("cross-encoder", folders)
    batch = ListBatch(0, batch_of(model.tokenizer).examples[:2])
    assert batch.repeats is None
    plan = GradientCache(engine_of(model), Collator({}, 120), kept_chunks=0, seed=SEED).plan(batch.sequences, 1, None)
    assert plan.sequences is batch.sequences
    assert plan.rows([2, 1]) == [2, 1]


def test_repeats_share_a_dropout_mask_and_a_query_has_its_own(folders: dict[str, Path]) -> None:
    cache, plan, batch = plan_of("embedder", folders, dropout=0.3)
    embedding = cache.gather(plan, cache.forward(plan))["embedding"].detach()
    queries, documents = batch.split_texts(embedding)
    assert queries[0].equal(queries[2])
    assert documents[0, 0].equal(documents[2, 1])
    assert documents[3, 0].equal(documents[3, 2])
    assert (queries[1] - documents[1, 2]).norm() > 0.1, "the same text: SimCSE trains on the difference of two masks"
    cache.engine.model.eval()
    same = batch.split_texts(cache.gather(plan, cache.forward(plan))["embedding"].detach())
    torch.testing.assert_close(same[0][1], same[1][1, 2])


def test_all_lists_that_hold_a_broken_row_are_named(folders: dict[str, Path]) -> None:
    cache, plan, batch = plan_of("cross-encoder", folders)
    outputs = cache.forward(plan)
    broken = plan.repeats.place[1]  # list 0, text 1: its pair is that of list 2, text 1
    for chunk, output in zip(plan.own, outputs, strict=True):
        if broken in chunk:
            output["score"][chunk.index(broken)] = float("nan")
    representations = cache.gather(plan, outputs)
    check = FiniteCheck(STEP, representations, plan.own_rows)
    check.spread(torch.zeros(()), representations)
    error = check.explain(NotFinite("", []))
    assert "not finite in 2 of 11 rows" in str(error)
    assert [batch.sequence_ids(row) for row in error.rows] == [("q0", "d0.1"), ("q2", "d2.1")]


def test_exhausted_memory_names_a_row_of_the_batch(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cache, plan, batch = plan_of("embedder", folders)
    longest = batch.sequences.lengths.max()

    def refuse(features: Any) -> Any:
        if features["input_ids"].shape[1] == longest:
            torch.empty(10**17)
        return {}

    monkeypatch.setattr(cache.engine, "forward", refuse)
    with pytest.raises(ChunkOutOfMemory) as caught:
        cache.forward(plan)
    assert ("q1", "d1.3") in [batch.sequence_ids(row) for row in caught.value.indices]
    with pytest.raises(ChunkOutOfMemory, match="a chunk of 2 rows of 7 tokens"), detect_out_of_memory([5, 9], 7):
        torch.empty(10**17)


# Whole runs, every list of which occurs twice in its step.
RUNS = {
    "embedder": ["+exp=embedder_infonce", "eval.depth=100", "model.dropout=0"],
    "int8": ["+exp=embedder_quantization_aware", "eval.depth=100", "model.dropout=0"],
    "grpo": ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.num_generations=16", "loss.beta=0.1"],
    "dropout": ["+exp=reranker_contrastive"],
}
COMPARED = {"loss", "grad_norm", "score_checksum", "reward_mean", "kl"}

Run = tuple[list[dict[str, Any]], dict[str, Tensor]]


def run_doubled(settings: list[str], stop_at: int | None = None) -> Run:
    trainer = make_trainer(["trainer.max_steps=3", "trainer.save_every=1", "trainer.eval_every=3", *settings])
    trainer.evaluator = None
    next_batch, log = trainer.next_batch, trainer.log

    def doubled() -> ListBatch:
        batch = next_batch()
        return ListBatch(batch.number, batch.examples * 2)

    def log_and_stop(statistics: dict[str, Any]) -> None:
        log(statistics)
        if trainer.state.step == stop_at:
            raise KeyboardInterrupt

    trainer.next_batch, trainer.log = doubled, log_and_stop
    with suppress(KeyboardInterrupt):
        trainer.fit()
    weights = {name: value.detach().clone() for name, value in trainer.engine.model.state_dict().items()}
    return metrics_of(trainer), weights


def assert_close_runs(found: Run, expected: Run, tolerance: float) -> None:
    assert len(found[0]) == len(expected[0]) == 3
    for line, other in zip(found[0], expected[0], strict=True):
        for name in COMPARED & line.keys():
            assert line[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), (name, line, other)
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["embedder", "int8", "grpo"])
def test_a_run_is_that_of_all_rows(name: str, tiny_run: list[str]) -> None:
    settings = [*tiny_run, *RUNS[name]]
    merged = run_doubled([*settings, "run_name=merged"])
    whole = run_doubled([*settings, "run_name=whole", "trainer.merge_repeats=false"])
    # Chunks of other rows round differently: of the last bit of an embedding a code of int8 may depend.
    assert_close_runs(merged, whole, 1e-3 if name == "int8" else 1e-5)
    for line, other in zip(merged[0], whole[0], strict=True):
        assert other["repeated_share"] == 0 < 0.5 <= line["repeated_share"] < 0.9
        assert line["num_chunks"] < other["num_chunks"]


def test_a_resumed_run_draws_the_same_dropout(tiny_run: list[str]) -> None:
    """(Several ranks do too: tests/trainers/test_ranks.py trains on lists with repeats.)"""
    settings = [*tiny_run, *RUNS["dropout"]]
    whole = run_doubled([*settings, "run_name=whole"])
    run_doubled([*settings, "run_name=broken"], stop_at=2)
    resumed = run_doubled([*settings, "run_name=broken"])
    assert resumed[0] == whole[0]
    assert all(value.equal(whole[1][name]) for name, value in resumed[1].items())


def test_models_without_dropout_run_a_row_once(folders: dict[str, Path]) -> None:
    """The reference, a teacher and a guide."""
    cache, plan, batch = plan_of("cross-encoder", folders)
    engine, forward, rows = cache.engine, cache.engine.forward, []

    def counted(features: dict[str, Tensor]) -> dict[str, Tensor]:
        rows.append(len(features["input_ids"]))
        return forward(features)

    engine.forward = counted
    merged = represent_distinct(engine, batch.sequences, cache.collator)["score"]
    assert sum(rows) == len(plan.sequences)
    torch.testing.assert_close(merged, represent_sequences(engine, batch.sequences, cache.collator)["score"])
