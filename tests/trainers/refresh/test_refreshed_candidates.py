"""Refreshed candidates are those of the current model, and training lists are drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import make_trainer, metrics_of, run_several

from engines.distributed.testing import run_ranks
from inference import vector_search
from inference.search import BlockSearch

HARD_DEPTH = 4
SETTINGS = [
    "trainer.max_steps=8",
    "trainer.eval_every=4",
    "trainer.refresh_every=3",
    f"data.lists.hard_depth={HARD_DEPTH}",
    "eval.dev_max_queries=3",
]
EMBEDDER = ["+exp=embedder_infonce", "trainer.list_size=3", "eval.depth=100", *SETTINGS]
RERANKER = ["+exp=reranker_contrastive", *SETTINGS]


class Watched:
    """A run that notes the weights of each refresh and the batch of each step."""

    def __init__(self, settings: list[str]) -> None:
        self.trainer = make_trainer(settings)
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.batches: dict[int, Any] = {}
        refresher, next_batch = self.trainer.refresher, self.trainer.next_batch
        refresh = refresher.refresh

        def refreshed(runner: Any, *, step: int, batch: int) -> int:
            state = self.trainer.engine.model.state_dict()
            self.weights[step] = {name: value.clone() for name, value in state.items()}
            return refresh(runner, step=step, batch=batch)

        def noted() -> Any:
            self.batches[self.trainer.state.step] = next_batch()
            return self.batches[self.trainer.state.step]

        refresher.refresh, self.trainer.next_batch = refreshed, noted
        self.trainer.fit()

    @property
    def lists(self) -> Any:
        (lists,) = self.trainer.batches.loader.lists.sources.values()
        return lists


def embeddings(model: Any, texts: list[str], role: str) -> torch.Tensor:
    """Each text alone: no chunks, no padding, no blocks."""
    rows = []
    for text in texts:
        ids = torch.tensor(model.tokenizer([text], role=role)["input_ids"])
        rows.append(model(input_ids=ids, attention_mask=torch.ones_like(ids))["embedding"][0])
    return torch.stack(rows)


def pair_scores(model: Any, query: str, texts: list[str]) -> torch.Tensor:
    scores = []
    for text in texts:
        features = {name: torch.tensor(rows) for name, rows in model.tokenizer([query], [text]).items()}
        features.pop("truncated")
        features["attention_mask"] = torch.ones_like(features["input_ids"])
        scores.append(model(**features)["score"][0])
    return torch.stack(scores) if scores else torch.empty(0)


def is_ranking_of(found: list[str], scores: dict[str, float], depth: int) -> bool:
    """Whether these are the best `depth` documents in falling order, up to rounding."""
    values = [scores[name] for name in found]
    others = [score for name, score in scores.items() if name not in found]
    falling = all(second <= first + 1e-5 for first, second in pairwise(values))
    best_other = max(others, default=-np.inf)
    return len(found) == depth and falling and all(best_other <= value + 1e-5 for value in values[-1:])


@pytest.mark.parametrize("sample", [None, 25])
def test_an_embedder_finds_what_brute_force_finds(
    sample: int | None, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block by block: 256 MiB of vectors are here those of 17 documents."""
    sizes, add = [], BlockSearch.add

    def counted(self: BlockSearch, documents: torch.Tensor) -> None:
        sizes.append(len(documents))
        add(self, documents)

    monkeypatch.setattr(BlockSearch, "add", counted)
    monkeypatch.setattr(vector_search, "VALUES", 32 * 17)
    size = "null" if sample is None else sample
    options = [f"trainer.refresh_documents={size}", "trainer.refresh_depth=9", "data.candidates.depth=5"]
    run = Watched([*tiny_run, *EMBEDDER, *options])
    assert sorted(run.weights) == [3, 6]
    assert max(sizes) == 17
    trainer, lists = run.trainer, run.lists
    model = trainer.engine.model.eval()
    model.load_state_dict(run.weights[6])
    ids = list(lists.documents)
    with torch.no_grad():
        documents = embeddings(model, list(lists.documents.values()), "document")
        queries = embeddings(model, [lists.queries[query] for query in lists.query_ids], "query")
    refreshed = trainer.refresher.in_use.candidates[lists.source]
    assert len(refreshed) == len(lists.query_ids) == 24
    searched = {document for query in lists.query_ids for document, _ in refreshed[query]}
    if sample is None:
        assert len(searched) > 25
    else:
        rows = trainer.refresher._sample_rows(lists, 6)
        assert len(set(rows)) == sample
        assert rows != trainer.refresher._sample_rows(lists, 3)
        ids, documents = [ids[row] for row in rows], documents[rows]
    for query, scores in zip(lists.query_ids, (queries @ documents.T).tolist(), strict=True):
        of = dict(zip(ids, scores, strict=True))
        assert is_ranking_of([document for document, _ in refreshed[query]], of, 9)
        assert [score for _, score in refreshed[query]] == pytest.approx([of[d] for d, _ in refreshed[query]], abs=1e-5)
        first_stage = [document for document, _ in lists.first_stage[query]]
        merged = [document for document, _ in lists.candidates[query]]
        assert len(merged) == len(set(merged))
        assert merged[9:] == [document for document in first_stage if document not in merged[:9]]


def test_a_reranker_orders_the_first_candidates_anew(tiny_run: list[str]) -> None:
    run = Watched([*tiny_run, *RERANKER, "trainer.refresh_depth=8"])
    lists, model = run.lists, run.trainer.engine.model.eval()
    model.load_state_dict(run.weights[6])
    refreshed = run.trainer.refresher.in_use.candidates[lists.source]
    changed = 0
    for query in lists.query_ids:
        window = [document for document, _ in lists.first_stage[query][:8]]
        with torch.no_grad():
            scores = pair_scores(model, lists.queries[query], [lists.documents[name] for name in window]).tolist()
        found = [document for document, _ in refreshed[query]]
        assert is_ranking_of(found, dict(zip(window, scores, strict=True)), len(window))
        assert {d for d, _ in lists.candidates[query]} == {d for d, _ in lists.first_stage[query]}
        changed += found != window
    assert changed > 12


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("experiment", [EMBEDDER, RERANKER])
def test_every_batch_is_drawn_from_the_refresh_before_it(
    experiment: list[str], workers: int, tiny_run: list[str]
) -> None:
    """Workers load batches in advance: those of the old candidates are dropped."""
    settings = [*tiny_run, *experiment, "trainer.refresh_depth=9", "trainer.save_every=100"]
    run = Watched([*settings, f"trainer.workers={workers}", "data.lists.no_duplicates=false"])
    lists, refreshed = run.lists, {0: None}
    assert sorted(run.batches) == [*range(1, 9)]
    again = Watched([*settings, "data.lists.no_duplicates=false", "run_name=again"])
    for step in (3, 6):  # what was in use is no longer on disk: a run of the same settings makes it again
        again.trainer.engine.model.load_state_dict(run.weights[step])
        again.trainer.refresher.in_use = None
        again.trainer.refresher.refresh(again.trainer.engine, step=step, batch=step)
        refreshed[step] = {query: again.lists.candidates[query] for query in lists.query_ids}
    differing = 0
    for step, batch in run.batches.items():
        again.lists.refresh(refreshed[(step - 1) // 3 * 3])
        for example in batch.examples:
            ranked = [document for document, _ in again.lists.candidates[example.query_id]]
            drawn = [d for d, label in zip(example.document_ids, example.labels, strict=True) if label == 0]
            assert set(drawn[:-1]) <= set(ranked[:HARD_DEPTH]) or drawn == []
            first = {document for document, _ in lists.first_stage[example.query_id][:HARD_DEPTH]}
            differing += step > 3 and not set(drawn) <= first
        if step == 3:
            assert differing == 0
    assert differing > 3


def test_the_lines_say_which_refresh_is_in_use(tiny_run: list[str]) -> None:
    trainer = make_trainer([*tiny_run, *EMBEDDER])
    trainer.fit()
    steps = [line["refreshed_step"] for line in metrics_of(trainer) if line["split"] == "train"]
    assert steps == [0, 0, 0, 3, 3, 3, 6, 6]
    assert [path.name for path in (trainer.run.path / "refresh").iterdir()] == ["step-000006"]
    plain = make_trainer([*tiny_run, *EMBEDDER, "trainer.refresh_every=0", "run_name=plain"])
    plain.fit()
    assert not (plain.run.path / "refresh").exists()
    assert not any("refreshed_step" in line for line in metrics_of(plain))


def test_judged_and_excluded_documents_are_never_negatives(tiny_run: list[str]) -> None:
    trainer = make_trainer([*tiny_run, *EMBEDDER])
    (lists,) = trainer.batches.loader.lists.sources.values()
    query = lists.query_ids[0]
    (relevant,) = lists.relevant(query)
    names = [name for name in lists.documents if name != relevant]
    lists.excluded = {query: {names[0]}}
    lists.documents[names[1]] = lists.documents[relevant]  # a copy
    lists.refresh({query: [(name, 1.0) for name in (relevant, *names[:2], names[2])]})
    drawn = {name for epoch in range(20) for name in lists.sample(epoch, query)}
    assert drawn == {relevant, names[2]}
    example = lists[0, 0]
    assert example.labels.sum() == lists.relevant(query)[relevant]
    scores = dict(lists.first_stage[query])
    assert np.array_equal(
        example.teacher_scores, [scores.get(name, np.nan) for name in example.document_ids], equal_nan=True
    )


def runs(tiny_run: list[str], engine: str) -> list[list[str]]:
    common = [*tiny_run, f"engine={engine}"]
    return [[*common, *experiment, f"run_name={i}"] for i, experiment in enumerate((EMBEDDER, RERANKER))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]]) -> Any:
    """The runs of one process."""
    return run_ranks(run_several, 1, runs(tiny_overrides(tmp_path_factory.mktemp("one")), "torch"), timeout_s=280)[0]


@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_two_ranks_equal_one(engine: str, tiny_run: list[str], alone: Any) -> None:
    first, second = run_ranks(run_several, 2, runs(tiny_run, engine), timeout_s=280)
    for (expected, weights), (found, found_weights), (lines, _) in zip(alone, first, second, strict=True):
        assert found == lines
        for one, two in zip(expected, found, strict=True):
            assert one.keys() == two.keys()
            for name in one.keys() & {"loss", "grad_norm", "nDCG@10", "refreshed_step", "documents_per_query"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), (name, one, two)
        torch.testing.assert_close(found_weights, weights, rtol=1e-4, atol=1e-5)
