"""launch/evaluate.py: what a ranker costs, a part of the corpus, and the table of stored forms."""

from __future__ import annotations

import json
import shutil

import pytest

from launch.cli.compose import load
from recipes.evaluate.run import evaluate
from runs.report.content import number_of_tests
from runs.report.costs import bytes_in_words, form_table


@pytest.fixture(scope="module")
def data(tiny_beir_dir, tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("cache")
    return ["data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={cache}"]


@pytest.fixture
def results(data, tmp_path, capsys):
    """A function that evaluates and returns the JSON and what was printed."""

    def run(*options):
        output = tmp_path / "results.json"
        evaluate(load([*data, *options, f"output={output}"], "evaluate"))
        return json.loads(output.read_text()), capsys.readouterr().out

    return run


def test_the_cost_of_a_search_of_each_stored_form(results, tiny_bert_dir):
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval.dims=[16]", "eval.precision=[fp32,int8]"]
    found, out = results(*model, "cost=true", "eval.depth=100")
    cost, index = found["cost"], found["index"]
    assert list(cost["index_bytes"]) == ["fp32", "int8", "dim16", "dim16/int8"]
    assert cost["index_bytes"] == index["bytes"]
    assert index["bytes"]["fp32"] == index["dimension"] * 4 * index["documents"]
    assert 0 < cost["query_ms_p50"] <= cost["query_ms_p95"]
    assert cost["documents_per_s"] > 0
    assert cost["dtype"] == "float32"
    assert "a query takes" in out
    assert "documents encoded per second" in out
    assert "dim16/int8" in out.partition("index: ")[2]


def test_the_cost_of_a_reranker_is_that_of_its_candidates(results, tiny_reranker_dir):
    model = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=4", "cost=true"]
    found, out = results(*model)
    assert found["cost"]["documents_per_query"] == 4
    assert found["cost"]["index_bytes"] == {}
    assert "6 queries, one at a time, 4 documents each" in out
    assert "documents scored per second" in out
    several, _ = results(*model, "first_stages=[bm25]")
    assert several["cost"]["documents_per_query"] == 4


def test_the_cost_of_bm25(results):
    found, out = results("model=bm25", "cost=true")
    assert found["cost"]["index_bytes"]["terms"] > 0
    assert "documents indexed per second" in out
    assert "cost" not in results("model=bm25")[0]


def test_a_part_of_the_corpus_is_labelled(results, data, tiny_bert_dir, tmp_path):
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "fusion_weight=0.5", "eval.depth=100"]
    whole, _ = results(*model)
    found, out = results(*model, "eval.max_documents=10")
    part = found["partial"]
    assert (part["documents"], part["of"]) == (10, whole["index"]["documents"])
    assert found["index"]["documents"] == part["of"]
    assert found["model"] > whole["model"]
    assert f"6 queries, partial: 10 of {part['of']} documents; values are higher than over the whole" in out
    assert "retrieved from a part of the corpus\n" in out
    assert "partial" not in whole
    _, out = results(*model, "eval.max_documents=10", "eval.dims=[16]")
    assert "nDCG@10 of the model (partial), and bytes" in out
    bm25, out = results("model=bm25", "eval.max_documents=10", "eval.depth=100")
    assert bm25["partial"] == part
    assert bm25["bm25"] == found["bm25"]
    assert "partial: 10 of" in out


def test_runs_over_different_parts_are_not_compared(results, data, tiny_bert_dir, tmp_path):
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "fusion_weight=0.5", "eval.depth=100"]
    results(*model, "eval.max_documents=10")
    for suffix in (".json", ".model.run", ".queries.jsonl"):
        shutil.copy(tmp_path / f"results{suffix}", tmp_path / f"part{suffix}")
    same, _ = results(*model, "eval.max_documents=10", f"against={tmp_path / 'part.json'}")
    assert same["tests_against"]["MAP"]["p_value"] == 1.0
    with pytest.raises(ValueError, match=r"different parts of the corpus .*here the whole corpus, there a part of it"):
        results(*model, f"against={tmp_path / 'part.json'}")
    with pytest.raises(ValueError, match="different parts"):
        results(*model, "eval.max_documents=10", f"against={tmp_path / 'part.model.run'}")


def test_what_is_searched_says_that_it_is_a_part():
    summary = {"test_queries": 300, "partial": {"documents": 10_000, "of": 5_000_000, "hash": "x"}}
    expected = "300 test queries, partial: 10,000 of 5,000,000 documents; values are higher than over the whole"
    assert number_of_tests(summary) == expected


def test_the_table_of_stored_forms():
    sizes = {"fp32": 8000, "int8": 2000, "dim64": 4000, "dim64/int8": 1000}
    values = {"MAP": 0.5, "MAP/int8": 0.49, "MAP/dim64": 0.4, "MAP/dim64/int8": 0.39, "overlap@10/int8": 0.9}
    index = {"dimension": 128, "documents": 16, "bytes": sizes}
    lines = form_table({"metric": "MAP", "metrics": {"model": values}, "index": index})
    assert [line.split() for line in lines[1:]] == [
        ["dimension", "fp32", "int8"],
        ["-" * len(lines[1])],
        ["128", "0.5000", "7.81", "KiB", "0.4900", "1.95", "KiB"],
        ["64", "0.4000", "3.91", "KiB", "0.3900", "0.977", "KiB"],
    ]
    assert form_table({"metric": "MAP", "metrics": {}, "index": {**index, "bytes": {"fp32": 1}}}) == []
    assert bytes_in_words(512) == "512 bytes"
    assert bytes_in_words(7_961_088) == "7.59 MiB"


def test_nothing_is_found_for_queries_without_a_ranking(data, tiny_bert_dir):
    with pytest.raises(ValueError, match="cost=true: eval=similarity finds no documents"):
        load(
            [*data, "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval=similarity", "cost=true"],
            "evaluate",
        )
    with pytest.raises(ValueError, match=r"eval.max_documents must be at least 1, got 0"):
        load([*data, "model=bm25", "eval.max_documents=0"], "evaluate")
