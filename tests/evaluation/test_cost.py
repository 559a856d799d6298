"""What a ranker costs: the bytes that are known beforehand, one query at a time, and one rank that measures."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from data.bm25 import BM25
from engines.distributed.testing import run_ranks
from evaluation.cost import QUERIES, WARM_UP, measure_embedder, measure_reranker, measure_retriever, sample
from evaluation.evaluator import Prompts
from inference import vector_search
from inference.runner import ModuleRunner
from inference.search import ExactIndex, InvertedIndex
from inference.stored_form import StoredForm
from losses.math.similarity import DOT

CPU = torch.device("cpu")
DOCUMENTS = [f"text {'x' * (number % 7)}" for number in range(40)]
FORMS = [StoredForm(dim, precision) for dim in (None, 4) for precision in ("fp32", "int8", "binary")]


class Tokenizer:
    """One token per character. Keeps what it was asked for."""

    padding = {"input_ids": 0}  # noqa: RUF012

    def __init__(self, layout):
        self.layout = layout
        self.calls = []

    def __call__(self, texts, documents=None, *, role="", prompt="", query_prompt="", document_prompt=""):
        self.calls.append((role, len(texts)))
        if documents is not None:
            texts = [query_prompt + query + document for query, document in zip(texts, documents, strict=True)]
        return {"input_ids": [[1] * len(prompt + text) for text in texts]}


class Model(nn.Module):
    """Embeds as 8 numbers, scores by length. A row takes `row_s` seconds."""

    similarity = "cosine"

    def __init__(self, row_s=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))
        self.row_s = row_s

    def forward(self, input_ids, attention_mask):
        time.sleep(self.row_s * len(input_ids))
        length = attention_mask.sum(1).float()
        return {"score": length, "embedding": torch.stack([length * i for i in range(1, 9)], dim=1)}


def _embedder(queries=("a", "bb"), **options):
    tokenizer = Tokenizer("texts")
    runner = ModuleRunner(Model(), CPU)
    return measure_embedder(runner, tokenizer, DOCUMENTS, queries, forms=FORMS, **options), tokenizer


def test_index_bytes_are_those_of_the_stored_vectors():
    cost, _ = _embedder()
    assert cost.index_bytes == {
        "fp32": 40 * 32,
        "int8": 40 * 8,
        "binary": 40,
        "dim4": 40 * 16,
        "dim4/int8": 40 * 4,
        "dim4/binary": 40,
    }
    assert cost.index_documents == cost.sampled_documents == 40
    larger, _ = _embedder(index_documents=10**6)
    assert larger.index_bytes["fp32"] == 32 * 10**6


def test_documents_are_encoded_in_batches_and_queries_one_at_a_time():
    cost, tokenizer = _embedder([f"q{number}" for number in range(200)], prompts=Prompts("ask: ", None))
    documents, queries = ([size for role, size in tokenizer.calls if role == kind] for kind in ("document", "query"))
    assert documents == [32, 40]
    assert queries == [1] * (QUERIES + WARM_UP)
    assert cost.sampled_queries == QUERIES
    assert (cost.device.split()[0], cost.threads, cost.dtype) == ("cpu", torch.get_num_threads(), "float32")
    assert cost.peak_memory_bytes >= 4000  # the weights at least


def test_a_search_goes_over_as_many_vectors_as_the_index_has(monkeypatch):
    searched = []
    nearest = ExactIndex.nearest

    def counted(self, queries, depth):
        searched.append(len(self.documents))
        return nearest(self, queries, depth)

    monkeypatch.setattr(ExactIndex, "nearest", counted)
    _embedder(["one"], index_documents=40_000)
    assert searched == [16384, 16384, 40_000 - 2 * 16384] * 2  # the warm-up and the query
    searched.clear()
    monkeypatch.setattr(vector_search, "VALUES", 8 * 30)  # of 30 vectors
    _embedder(["one"], index_documents=70)
    assert searched == [30, 30, 10] * 2


def test_times_are_those_of_the_model():
    runner = ModuleRunner(Model(row_s=0.002), CPU)
    cost = measure_reranker(runner, Tokenizer("pairs"), [("q", DOCUMENTS[:20])] * 5 + [("no candidate", [])])
    assert 40 <= cost.query_ms_p50 <= cost.query_ms_p95 < 400
    assert 50 < cost.documents_per_s <= 500
    assert (cost.sampled_queries, cost.sampled_documents, cost.documents_per_query) == (5, 100, 20)
    assert cost.index_bytes == {}
    as_texts = measure_reranker(runner, Tokenizer("texts"), [("q", DOCUMENTS[:20])] * 2)
    assert 42 <= as_texts.query_ms_p50 < 400  # the query is embedded too


def test_bm25_is_indexed_and_searched():
    cost = measure_retriever(BM25(language="english"), DOCUMENTS, ["text xx", "absent"])
    assert cost.index_bytes["terms"] > 0
    assert cost.documents_per_s > 0
    assert 0 < cost.query_ms_p50 <= cost.query_ms_p95
    assert (cost.sampled_queries, cost.index_documents) == (2, 40)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="needs documents and queries, got 40, 0"):
        _embedder([])
    with pytest.raises(ValueError, match="needs a query that has a candidate"):
        measure_reranker(ModuleRunner(Model(), CPU), Tokenizer("pairs"), [("q", [])])


def _on_two_ranks():
    cost, tokenizer = _embedder()
    return cost, len(tokenizer.calls)


def test_rank_0_measures_and_the_others_wait():
    (first, calls), (second, none) = run_ranks(_on_two_ranks, 2)
    assert first == second
    assert calls > 0
    assert none == 0


def test_a_sample_is_spread_over_the_whole():
    assert sample(range(10), 3) == [0, 3, 6]
    assert sample(range(2), 3) == [0, 1]
    assert sample([], 3) == []


class SparseModel(Model):
    """Weights of 8 tokens, of which a text has as many as its length tells, at most 3."""

    similarity = "dot"

    def forward(self, input_ids, attention_mask):
        tokens = torch.arange(8)
        return {"embedding": (tokens < (attention_mask.sum(1, keepdim=True) % 4)).float()}


def test_an_inverted_index_costs_its_own_bytes():
    runner = ModuleRunner(SparseModel(), CPU)
    cost = measure_embedder(runner, Tokenizer("texts"), DOCUMENTS, ["a", "bb"], search="inverted", index_documents=4000)
    nonzeros = sum(len(text) % 4 for text in DOCUMENTS)
    assert cost.index_bytes == {"inverted": 100 * (8 * nonzeros + 4 * 9)}  # (value, document), and 8 lists
    repeated = InvertedIndex.random(DOT, torch.eye(3), 7)
    assert repeated.toarray().tolist() == torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]].tolist()
