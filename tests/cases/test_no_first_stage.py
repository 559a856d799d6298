"""Held-out queries whose candidates are the documents of their rows, in random order: no first stage is compared."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data.formats.file import FileConfig
from evaluation.reranking_evaluator import RerankingConfig, _warn_depth
from launch.cli.compose import load
from recipes.evaluate.run import evaluate
from recipes.training_run import train

WORDS = ("kettle", "glacier", "violin", "harbour", "engine", "garden", "bridge", "lantern", "river", "castle")
ROWS = [
    {"query": f"which {word} is number {i}", "pos": [f"the {word} is {i}"], "neg": [f"no {word} {i}", f"a {i}"]}
    for i, word in enumerate(WORDS * 2)
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ranked(rows: list[dict[str, Any]], tmp_path: Path, **options: Any) -> dict[str, bool]:
    path = write(tmp_path / "some.jsonl", rows)
    data = FileConfig(path=path, cache_dir=str(tmp_path), **options).build()
    return {name: split.ranked for name, split in data.splits.items() if name != "train"}


def test_only_random_order_is_no_ranking(tmp_path: Path):
    assert ranked(ROWS, tmp_path) == {"dev": False, "test": False}
    pairs = [{"query": row["query"], "positive": row["pos"][0]} for row in ROWS]
    assert ranked(pairs, tmp_path) == {"dev": True, "test": True}  # BM25
    taught = [{**row, "pos_scores": [2], "neg_scores": [1, 0]} for row in ROWS]
    assert ranked(taught, tmp_path) == {"dev": True, "test": True}  # the teacher's order
    mixed = {"dev_path": write(tmp_path / "dev.jsonl", [{**row, "query": f"{row['query']}?"} for row in ROWS])}
    assert ranked(pairs, tmp_path, **mixed) == {"dev": False, "test": True}


def test_a_run_compares_with_the_starting_model(
    tiny_overrides: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path / "rows.jsonl", ROWS)
    overrides = [*tiny_overrides(tmp_path), "data=file", f"data.path={path}", f"data.cache_dir={tmp_path}"]
    overrides = [
        setting for setting in overrides if not setting.startswith("data.") or "path" in setting or "cache" in setting
    ]
    _warn_depth.cache_clear()
    with caplog.at_level(logging.WARNING):
        train(load(["+exp=reranker_listwise", *overrides, "trainer.max_steps=2", "trainer.eval_every=1"]))
    assert "raise data.candidates.depth" not in caplog.text  # there is nothing more to rerank
    folder = tmp_path / "outputs" / "reranker_listwise"
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary[name] for name in ("first_stage", "fused", "fusion_weight")] == [None, None, None]
    assert set(summary["tests"]) == {"after_vs_before"}
    assert set(summary["metrics"]) == {"before", "after"}
    out = capsys.readouterr().out
    assert "no first stage: each query's candidates are the documents that the data list with it" in out
    assert not any(line.startswith(("first stage", "fused")) for line in out.splitlines())
    queries = json.loads((folder / "queries.json").read_text())
    assert all("before" in query and "first_stage" not in query for query in queries["best"] + queries["worst"])
    assert "first stage none" not in (folder / "report.html").read_text()


def test_an_evaluation_names_no_first_stage(
    tiny_reranker_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, output = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "results.json"
    arguments = [
        f"model.name_or_path={tiny_reranker_dir}",
        "model.max_length=64",
        "data=file",
        f"data.path={path}",
        f"data.cache_dir={tmp_path}",
    ]
    value = evaluate(load([*arguments, f"output={output}"], "evaluate"))
    results = json.loads(output.read_text())
    assert (results["first_stage"], results["fusion_weight"], results["tests"]) == (None, None, {})
    assert results["metrics"].keys() == {"model"}
    assert results["model"] == value
    assert "no first stage" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"^fusion_weight=0.5: .* no first stage to fuse with: leave it out$"):
        evaluate(load([*arguments, "fusion_weight=0.5"], "evaluate"))
    evaluate(load([*arguments, "data/candidates=bm25", "fusion_weight=0.5", f"output={output}"], "evaluate"))
    assert set(json.loads(output.read_text())["tests"]) == {"model_vs_first_stage", "fused_vs_first_stage"}


TAUGHT = [{**row, "pos_scores": [0.9], "neg_scores": [0.2, 0.1]} for row in ROWS]


@pytest.mark.parametrize("rows", [ROWS, TAUGHT])
def test_listed_documents_are_no_first_stage_of_the_whole_corpus(
    tiny_overrides: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]]
):
    path = write(tmp_path / "rows.jsonl", rows)
    kept = [setting for setting in tiny_overrides(tmp_path) if not setting.startswith(("data", "eval"))]
    settings = ["data=file", f"data.path={path}", f"data.cache_dir={tmp_path}", "data.lists.random_fraction=0"]
    train(load(["+exp=embedder_infonce", *kept, *settings, "trainer.max_steps=2", "trainer.eval_every=1"]))
    folder = tmp_path / "outputs" / "embedder_infonce"
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary[name] for name in ("first_stage", "fused", "fusion_weight")] == [None, None, None]
    assert set(summary["tests"]) == {"after_vs_before"}
    out = capsys.readouterr().out
    assert "no first stage: the whole corpus is searched, and the documents that the data list with a query" in out
    assert "each query's candidates are" not in out
    output = tmp_path / "results.json"
    model = ["model=bi_encoder", f"model.name_or_path={folder / 'model'}"]
    evaluate(load([*model, *settings[:3], f"output={output}"], "evaluate"))
    assert set(json.loads(output.read_text())["tests"]) == {"model_vs_bm25", "fused_vs_bm25"}


def test_a_first_stage_of_scores_in_the_file_is_called_so(
    tiny_reranker_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = ["data=file", f"data.path={write(tmp_path / 'rows.jsonl', TAUGHT)}", f"data.cache_dir={tmp_path}"]
    model = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64"]
    evaluate(load([*model, *data], "evaluate"))
    assert "first stage: the scores in the file\n" in capsys.readouterr().out
    evaluate(load([*model, *data, "data/candidates=bm25"], "evaluate"))
    assert "the scores in the file" not in capsys.readouterr().out


def test_the_evaluator_says_whether_there_is_a_first_stage(tmp_path: Path):
    data = FileConfig(path=write(tmp_path / "rows.jsonl", ROWS), cache_dir=str(tmp_path)).build()
    split = data.split("test")
    assert not RerankingConfig().build(split, data.documents, None).has_first_stage
    assert not split.without({next(iter(split.queries))}).ranked
