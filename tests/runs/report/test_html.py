"""The report: what it says, that it stands alone, and the queries that it shows."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from data.collection import Split
from evaluation.evaluator import EvaluationResult
from evaluation.metrics import measure
from evaluation.reranking_evaluator import RerankingConfig
from evaluation.retrieval_evaluator import RetrievalConfig
from runs.report.charts import draw, running_mean
from runs.report.content import print_table, result_rows
from runs.report.html import STYLE, write_report
from runs.report.queries import extreme_queries, write_queries

METRICS = {"first_stage": 0.45, "before": 0.19, "after": 0.5, "fused": 0.53}
METRICS_OF_DIMS = {name: {"nDCG@10": value, "MAP": value - 0.1234} for name, value in METRICS.items()}
METRICS_OF_DIMS["after"] |= {"nDCG@10/dim64": 0.4, "MAP/dim64": 0.3, "nDCG@10/dim32": 0.3, "MAP/dim32": 0.2}
SUMMARY = {
    "metric": "nDCG@10",
    **METRICS,
    "metrics": {name: {"nDCG@10": value, "MAP": value - 0.1234} for name, value in METRICS.items()},
    "ceiling": {"nDCG@10": 0.74, "MAP": 0.7},
    "recall_ceiling": 0.741,
    "fusion_weight": 0.65,
    "test_queries": 1320,
    "tests": {"after_vs_first_stage": {"difference": 0.05, "low": 0.01, "high": 0.09, "p_value": 0.0002}},
    "steps": 200,
    "seconds": 412.3,
    "engine": "zero2",
    "world_size": 2,
}


class Page(HTMLParser):
    """Checks that tags are balanced; collects text and the addresses that the page asks for."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.sources, self.text, self.containers = [], [], "", []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.containers.append(self.stack[-1])
        if tag not in ("meta", "img", "source", "br"):
            self.stack.append(tag if tag != "div" else f"div.{dict(attributes).get('class')}")
        self.sources += [value for name, value in attributes if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag):
        assert self.stack.pop().partition(".")[0] == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run_dir(tmp_path):
    lines = [{"step": step, "split": "dev", "nDCG@10": 0.2 + step / 1000} for step in (0, 50, 100)]
    lines += [
        {
            "step": step,
            "split": "train",
            "loss": math.sin(step),
            "reward_mean": 0.5,
            "grad_norm": 1.0,
            "learning_rate": 0.1,
        }
        for step in range(1, 101)
    ]
    lines.append({"step": 100, "split": "test", "name": "after", "nDCG@10": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text("run_name: my_run\ntrainer:\n  betas: [0.9, 0.999]\nmodel:\n  lora: null\n")
    return tmp_path


def test_one_page_with_results_curves_and_settings_that_asks_for_nothing(run_dir):
    text = write_report(run_dir, SUMMARY).read_text()
    page = Page(text)
    for expected in (
        "my_run",
        "0.5300",
        "0.4066",
        "oracle",
        "0.7400",
        "1,320 queries",
        "74.1%",
        "p < .001",
        "6 min 52 s",
    ):
        assert expected in page.text, expected
    assert "trainer.betas[0.9, 0.999]" in page.text
    assert "model.loranull" in page.text
    for title in ("Dev nDCG@10", "Reward", "Loss", "Gradient norm", "Learning rate"):
        assert title in page.text
    assert "KL" not in page.text  # not in metrics.jsonl
    assert len(page.sources) == 2 * 5
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert not re.search(r"<script|<link|@import|url\(", text)
    assert 'class="top">0.5300' in text


def test_a_run_without_dev_fusion_or_all_metrics_has_a_report_too(run_dir):
    summary = {"metric": "MRR@10", "first_stage": 0.4, "before": 0.1, "after": 0.3, "fused": None, "best_dev": None}
    (run_dir / "metrics.jsonl").write_text("")
    page = Page(write_report(run_dir, summary).read_text())
    assert "fused" not in page.text
    assert "Training" not in page.text
    assert "warning: the model ranks worse than the first stage (MRR@10 0.3000 < 0.4000)" in page.text


def test_the_printed_table_says_the_same(capsys):
    print_table(SUMMARY)
    out = capsys.readouterr().out
    assert [*result_rows(SUMMARY)] == ["first stage", "before", "after", "fused", "oracle"]
    assert re.search(r"fused +0\.5300 +0\.4066", out)
    assert "nDCG@10, after vs first stage: +0.0500 [+0.0100, +0.0900], p < .001" in out
    assert "fused: 0.65 model + 0.35 first stage" in out


RETRIEVED = {
    "metric": "nDCG@10",
    **METRICS,
    "metrics": METRICS_OF_DIMS,
    "ceiling": {},
    "recall_ceiling": None,
    "tests": {"after_vs_first_stage": {"difference": 0.05, "low": 0.01, "high": 0.09, "p_value": 0.0002}},
}


def test_a_retrieval_run_shows_its_dimensions_and_no_oracle(run_dir):
    lines = [{"step": step, "split": "dev", "nDCG@10": 0.2, "nDCG@10/dim64": 0.1, "MAP/dim64": 0.1} for step in (0, 50)]
    lines += [{"step": step, "split": "train", "loss/dim_64": step} for step in (1, 2)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = result_rows(RETRIEVED)
    assert [*rows] == ["first stage", "before", "after", "after, dim 64", "after, dim 32", "fused"]
    assert rows["after, dim 64"] == {"nDCG@10": 0.4, "MAP": 0.3}
    page = Page(write_report(run_dir, RETRIEVED).read_text())
    assert "after, dim 64" in page.text
    assert "oracle" not in page.text
    assert "among the candidates" not in page.text
    assert "Dev nDCG@10, dim 64" in page.text
    assert "MAP, dim" not in page.text
    assert "Loss, dim_64" in page.text
    assert len(page.sources) == 2 * 3


def test_the_baseline_of_an_evaluated_retriever_is_named(capsys):
    tests = {"model_vs_bm25": RETRIEVED["tests"]["after_vs_first_stage"]}
    print_table({"metric": "MAP", "bm25": 0.3, "model": 0.2, "fused": 0.4, "fusion_weight": 0.25, "tests": tests})
    out = capsys.readouterr().out
    assert re.search(r"BM25 +0\.3000", out)
    assert "fused: 0.25 model + 0.75 BM25 (z-scores)" in out
    assert "MAP, model vs BM25: +0.0500" in out


def test_a_document_that_the_first_stage_missed_is_shown(run_dir):
    documents = {f"d{i}": f"text {i}" for i in range(3)}
    split = Split({"q": "query"}, {"q": {"d2": 1}}, {"q": [("d0", 2.0)]})
    evaluator = RetrievalConfig(metric="MRR@10").build(split, documents, tokenizer=None)
    run = {"q": {"d0": 1.0, "d1": 2.0, "d2": 3.0}}
    metrics = measure(split.qrels, run, ["MRR@10"])
    write_queries(run_dir / "queries.json", evaluator, metrics, EvaluationResult(metrics, run))
    page = Page(write_report(run_dir, RETRIEVED).read_text())
    assert "rank 1, first stage none" in page.text
    assert "rank 3, first stage 1" in page.text


def _reranked():
    """q0 improves most, q9 is harmed most."""
    documents = {f"d{i}": f"<b>text</b> {i} " + "word " * 200 for i in range(3)}
    queries = {f"q{i}": f"query & {i}" for i in range(10)}
    candidates = {query: [("d0", 3.0), ("d1", 2.0), ("d2", 1.0)] for query in queries}
    relevant = {query: "d2" if i < 5 else "d0" for i, query in enumerate(queries)}
    split = Split(queries, {query: {document: 2} for query, document in relevant.items()}, candidates)
    evaluator = RerankingConfig(metric="MRR@10").build(split, documents, tokenizer=None)
    run = {query: {"d0": 2.0, "d1": 3.0, "d2": 1.0} for query in queries}
    run["q0"] = {"d0": 1.0, "d1": 2.0, "d2": 3.0}
    run["q9"] = {"d0": 1.0, "d1": 2.0, "d2": 3.0}
    return evaluator, EvaluationResult(measure(evaluator.qrels, run, ["MRR@10"]), run)


def test_the_queries_shown_are_those_that_changed_most(run_dir):
    evaluator, result = _reranked()
    shown = extreme_queries(evaluator, result.metrics, result, count=3)
    assert [query["id"] for query in shown["best"]] == ["q0"]  # others did not improve
    assert shown["worst"][0]["id"] == "q9"
    assert len(shown["worst"]) == 3
    best = shown["best"][0]
    assert (best["first_stage"], best["after"]) == (pytest.approx(1 / 3), 1.0)
    first = best["documents"][0]
    assert (first["id"], first["grade"], first["rank"], first["first_stage_rank"]) == ("d2", 2, 1, 3)
    assert len(first["text"]) < 420

    write_queries(run_dir / "queries.json", evaluator, result.metrics, result)
    page = Page(write_report(run_dir, SUMMARY).read_text())
    assert "Queries it helped most" in page.text
    assert "Queries it harmed most" in page.text
    assert "MRR@10, first stage 0.333 → after 1.000" in page.text
    assert "query & 0" in page.text
    assert "<b>text</b> 2" in page.text  # escaped: shown, not obeyed


def test_a_chart_of_many_points_stays_small():
    points = [(step, math.sin(step)) for step in range(20000)]
    assert len(draw("Loss <1>", {"": points}, smooth=True)) < 400_000
    assert "Loss &lt;1&gt;" in draw("Loss <1>", {"": points[:10]})


def test_the_running_mean_is_centred():
    assert running_mean([1.0, 2.0, 6.0], 1) == [1.5, 3.0, 4.0]


STAGES = [
    {"name": "grpo", "metric": 0.4, "metrics": {"nDCG@10": 0.4, "MAP": 0.3}, "best_dev": 0.5, "best_step": 50},
    {"name": "preference", "metric": 0.5, "metrics": {"nDCG@10": 0.5, "MAP": 0.4}, "best_dev": 0.5, "best_step": 0},
]


def test_stages_have_a_table_a_row_each_and_borders_in_the_curves(run_dir):
    stages = [{**stage, "steps": 50, "seconds": 61.0} for stage in STAGES]
    summary = {**SUMMARY, "stages": stages}
    assert [*result_rows(summary)][:4] == ["first stage", "before", "after grpo", "after"]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    of_stages = [{**line, "stage": "grpo" if line["step"] <= 50 else "preference"} for line in lines]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in of_stages))
    page = Page(write_report(run_dir, summary).read_text())
    for text in ("start0.1900", "grpo50500.50000.40001 min 1 s", "preference50its start0.50000.50001 min 1 s"):
        assert text in page.text
    assert (
        "note: in stage preference no checkpoint beat its start on dev, so it passes on its starting model" in page.text
    )
    assert "note: no checkpoint beat the starting model" not in page.text
    alone = {**SUMMARY, "stages": stages[-1:], "best_step": 0}
    page = Page(write_report(run_dir, alone).read_text())
    assert "note: no checkpoint beat the starting model on dev, so the starting model is exported" in page.text
    assert "its start" not in page.text


def test_a_curve_of_stages_is_drawn_in_parts():
    points = [(step, float(step)) for step in range(1, 9)]
    whole, parts = draw("Loss", {"": points}), draw("Loss", {"a": points[:4], "b": points[4:]})
    assert parts != whole
    assert draw("Loss", {"a": points[:4], "c": points[4:]}) != parts


def test_nothing_is_wider_than_a_telephone(run_dir):
    """A table scrolls inside its container, so that the page does not scroll sideways; no width is above 390 px."""
    stages = [{**stage, "steps": 50, "seconds": 61.0} for stage in STAGES]
    page = write_report(run_dir, {**SUMMARY, "stages": stages}).read_text()
    containers = Page(page).containers
    assert len(containers) >= 3, "results, stages, settings"
    assert set(containers) == {"div.table"}
    assert re.search(r"\.table \{[^}]*overflow-x: auto", STYLE)
    rem = 16
    widths = re.findall(r"(?<!max-)width: ([\d.]+)(rem|px)", STYLE)
    assert all(float(number) * (rem if unit == "rem" else 1) <= 390 for number, unit in widths)
    assert "minmax(min(20rem, 100%), 1fr)" in STYLE, "a column of curves is never wider than the page"


def test_an_index_says_what_it_holds(capsys):
    """That of sparse embeddings counts their values; PLAID's has bytes alone."""
    facts = {"index": "plaid", "documents": 1000, "bytes": 2**21}
    stored = {"bytes": {"fp32": 2**21}, "dimension": 128, "documents": 1000}
    summary = {"metric": "MAP", "bm25": 0.3, "model": 0.2, "metrics": {"model": {"MAP": 0.2}}}
    print_table({**summary, "index": {**stored, "searched": facts}})
    assert "\nplaid index of 1,000 documents: 2 MiB\n" in capsys.readouterr().out
    facts |= {"index": "inverted", "document_nonzeros": 120.0, "query_nonzeros": 9.0, "products": 3.5}
    print_table({**summary, "index": {**stored, "searched": facts}})
    assert "inverted index of 1,000 documents: 2 MiB; nonzeros: 120.0 of a document" in capsys.readouterr().out
