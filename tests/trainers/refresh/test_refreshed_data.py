"""Refreshed negatives with large collections, mixtures of data sets and stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import make_trainer, metrics_of, run_to_the_end, run_until

from data.store import build
from data.store.texts import StoredTexts
from launch.cli.compose import load
from recipes.training_run import train

SETTINGS = ["trainer.max_steps=7", "trainer.eval_every=7", "trainer.refresh_every=2"]
EMBEDDER = ["model=bi_encoder", "loss=info_nce", "trainer=contrastive", "trainer.list_size=3"]
EMBEDDER += ["eval=retrieval", "eval.depth=100", *SETTINGS]
RERANKER = ["+exp=reranker_contrastive", *SETTINGS]


@pytest.mark.parametrize("experiment", [EMBEDDER, RERANKER], ids=["embedder", "reranker"])
def test_a_large_collection_is_refreshed_as_a_small_one(
    experiment: list[str], tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*tiny_run, *experiment, "data.lists.hard_depth=4", "trainer.refresh_documents=null"]
    settings += ["trainer.refresh_documents=20"] if experiment is EMBEDDER else []
    expected = run_to_the_end([*settings, "run_name=small"])[0]
    monkeypatch.setattr(build, "STORED_FROM", 0)
    monkeypatch.setattr(build, "_build_apart", build.build_here)
    trainer = make_trainer([*settings, "run_name=large"])
    (lists,) = trainer.batches.loader.lists.sources.values()
    assert isinstance(lists.documents, StoredTexts)
    trainer.fit()
    assert metrics_of(trainer) == expected
    assert len({line["refreshed_step"] for line in expected if line["split"] == "train"}) == 4


@pytest.fixture
def mixture(tiny_run: list[str], tiny_beir_dir: Path, tmp_path: Path) -> list[str]:
    """BEIR data with BM25, and triplets whose documents have no first stage."""
    kept = [option for option in tiny_run if not option.startswith("data")]
    words = ["red", "green", "blue", "apple", "pear", "train", "rank", "list", "query", "document"]
    rows = [
        {"anchor": f"{words[i % 10]} q{i}", "positive": f"{words[i % 10]} p{i}", "negative": f"{words[i % 7]} n{i}"}
        for i in range(20)
    ]
    (tmp_path / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *kept,
        *EMBEDDER,
        "data=mixture",
        "+data@data.sources.beir=beir",
        f"data.sources.beir.path={tiny_beir_dir}",
        "data.sources.beir.lists.random_fraction=0",
        "data.sources.beir.lists.hard_depth=4",
        "+data@data.sources.triplets=file",
        f"data.sources.triplets.path={tmp_path / 'triplets.jsonl'}",
        *(f"data.sources.{name}.cache_dir={tmp_path / 'cache'}" for name in ("beir", "triplets")),
        "data.weights={beir: 1, triplets: 1}",
        "trainer.workers=0",
        "trainer.save_every=3",
    ]


def test_each_data_set_of_a_mixture_is_refreshed(mixture: list[str]) -> None:
    trainer = make_trainer([*mixture, "run_name=whole"])
    trainer.fit()
    whole = metrics_of(trainer)
    assert {line["source"] for line in whole if line["split"] == "train"} == {"beir", "triplets"}
    for name, lists in trainer.batches.loader.lists.sources.items():
        found = trainer.refresher.in_use.candidates[name]
        assert list(found) == lists.query_ids
        assert all(document in lists.documents for query in found for document, _ in found[query])
        assert any(lists.candidates[query] != lists.first_stage[query] for query in found)
    run_until([([*mixture, "run_name=stopped"], 6)])
    assert run_to_the_end([*mixture, "run_name=stopped"])[0] == whole


def test_the_next_queries_alone_are_refreshed(mixture: list[str]) -> None:
    trainer = make_trainer([*mixture, "trainer.refresh_queries=12", "trainer.max_steps=3", "trainer.workers=0"])
    trainer.fit()
    found = {name: set(lists) for name, lists in trainer.refresher.in_use.candidates.items()}
    assert {name: len(queries) for name, queries in found.items()} == {"beir": 6, "triplets": 6}
    batch: Any = trainer.batches.current
    assert {example.query_id for example in batch.examples} <= found[batch.source]


def test_one_stage_of_several_is_refreshed(tiny_run: list[str], tmp_path: Path) -> None:
    kept = [option for option in tiny_run if not option.startswith(("trainer.batch", "trainer.list", "data.lists"))]
    options = ["+exp=reranker_three_stage", "stages=[contrastive,grpo]", "trainer.batch_size=3", "trainer.list_size=4"]
    options += ["trainer.max_steps=3", "stage.contrastive.trainer.refresh_every=2", "eval.dev_max_queries=3"]
    train(load([*kept, *options, "stage.contrastive.lists.hard_depth=4", "run_name=staged"]))
    (folder,) = tmp_path.glob("**/staged")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    of = {line["step"]: line.get("refreshed_step") for line in lines if line["split"] == "train"}
    assert of == {1: 0, 2: 0, 3: 2, 4: None, 5: None, 6: None}
    assert "refreshed every 2 steps" in (folder / "model" / "README.md").read_text()
