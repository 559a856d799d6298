"""Copies of a query or of its positives are no negatives; labels of pairs need no candidates."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data import candidates
from data.collection import Collection
from data.formats.file import FileConfig
from launch.cli.compose import load
from recipes.evaluate.run import evaluate
from recipes.training_run import train

NEGATIVES = {"comparison", "relevance"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build(path: Path, **options: Any) -> Collection:
    options = {"dev_fraction": 0.0, "test_fraction": 0.0} | options
    return FileConfig(path=str(path), cache_dir=str(path.parent / "cache"), **options).build()


def test_triplets_whose_negative_is_the_query_are_refused_before_training(
    tmp_path: Path, tiny_bert_dir: Path, caplog: pytest.LogCaptureFixture
):
    rows = [{"query": f"is bread {i}", "positive": f"food {i}", "negative": f"IS BREAD {i}"} for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    settings = ["+exp=embedder_infonce", "loss=triplet", "data=file", f"data.path={path}", "trainer.list_size=4"]
    settings += [f"model.name_or_path={tiny_bert_dir}", f"data.cache_dir={tmp_path}", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match="negative"):
        train(load(settings))
    assert "9 negatives are the query or a positive of it" in caplog.text


def test_positives_and_negatives_of_one_query_in_other_rows_and_files(tmp_path: Path, caplog):
    (tmp_path / "rows").mkdir()
    first = [{"query": f"bread {i}", "positive": f"food {i}", "negative": f"other {i}"} for i in range(3)]
    second = [{"query": f"bread {i}", "positive": f"OTHER  {i}", "negative": f"\uff46ood {i}"} for i in range(3)]
    write(tmp_path / "rows" / "a.jsonl", first)
    write(tmp_path / "rows" / "b.jsonl", second)
    assert not build(tmp_path / "rows").available & NEGATIVES
    assert "6 negatives are the query or a positive of it" in caplog.text


@pytest.mark.parametrize(
    "row",
    [
        {"query": "bread", "documents": ["food", "Food"], "labels": [1, 0]},
        {"query": "bread", "documents": ["food", "BREAD"], "labels": [2, 0]},
        {"prompt": "bread", "chosen": "food", "rejected": "FOOD "},
        {"prompt": "bread", "chosen": "food", "rejected": "Bread"},
    ],
)
def test_judged_copies_are_counted_and_give_a_loss_nothing(row: dict, tmp_path: Path, caplog):
    rows = [json.loads(json.dumps(row).replace("read", f"read {i}").replace("READ", f"READ {i}")) for i in range(4)]
    data = build(write(tmp_path / "a.jsonl", rows))
    assert "4 documents of label 0 are the query or a positive of it" in caplog.text
    assert not data.available & {*NEGATIVES, "several", "labels", "levels"}
    caplog.clear()
    more = [*rows, {**row, **({"documents": ["x", "y"]} if "documents" in row else {"rejected": "another"})}]
    assert build(write(tmp_path / "b.jsonl", more)).available >= NEGATIVES  # one list has a negative left


def test_lists_without_a_positive_stay_whole(tmp_path: Path, caplog):
    rows = [
        {"query": "bread", "documents": ["Bread", "x"], "labels": [0, 0]},
        {"query": "milk", "documents": ["y"], "labels": [1]},
    ]
    assert build(write(tmp_path / "a.jsonl", rows)).available >= {"labels", "several"}
    assert "no negatives" not in caplog.text


def test_labels_of_pairs_need_no_candidates(tmp_path: Path, tiny_bert_dir: Path, monkeypatch, caplog):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("BM25 searched")

    monkeypatch.setattr(candidates, "bm25_top", refuse)
    rows = [{"sentence1": f"red {i}", "sentence2": f"blue {i}", "label": i % 2} for i in range(20)]
    path = write(tmp_path / "pairs.jsonl", rows)
    settings = ["data=file", f"data.path={path}", f"data.cache_dir={tmp_path}", "data.test_fraction=0.5"]
    settings += ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval=similarity", "eval.metric=AP"]
    with caplog.at_level(logging.WARNING):
        assert 0 <= evaluate(load(settings, "evaluate")) <= 1
    assert "BM25" not in caplog.text
