"""Rows without a relevant document train the losses that can use them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data.formats.file import FileConfig
from launch.cli.compose import load
from recipes.training_run import train

WORDS = ["apple", "pear", "train", "rank", "list", "query", "document", "python", "green", "blue", "value", "returns"]
WITHOUT = [
    {"query": "q1", "pos": [], "neg": ["n1"]},
    {"query": "q1", "pos": None, "neg": ["n1"]},
    {"query": "q1", "pos": [""], "neg": ["n1"]},
    {"query": "q1", "neg": ["n1"]},
    {"query": "q1", "pos": [], "neg": ["n1"], "pos_scores": [], "neg_scores": [-2.0]},
    {"query": "q1", "pos": None, "neg": ["n1"], "pos_scores": None, "neg_scores": [-2.0]},
    {
        "messages": [{"role": "user", "content": "q1"}],
        "negative_messages": [[{"role": "assistant", "content": "n1"}]],
    },
]


@pytest.mark.parametrize("row", WITHOUT, ids=str)
def test_the_negatives_have_the_label_0(row: dict[str, Any], tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps({"query": "q2", "pos": ["p"], "neg": ["n2"]}))
    options = FileConfig(path=str(file), dev_fraction=0, test_fraction=0)
    assert [record.labels for record in options.records()] == [[0.0], [1.0, 0.0]]
    data = options.build()
    assert data.keep_queries_without_positives
    assert sorted(data.documents.values()) == ["n1", "n2", "p"]
    assert data.available >= {"positive", "labels"}


def test_an_empty_cell_is_no_positive(tmp_path: Path):
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("query", "positive", "negative"), ("q1", "", "n1"), ("q2", "p", "n2")])
    records = list(FileConfig(path=str(file)).records())
    assert [(record.documents, record.labels) for record in records] == [(["n1"], [0.0]), (["p", "n2"], [1.0, 0.0])]


def test_negatives_of_one_row_stay_positives_of_another(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    rows = [{"query": "q", "pos": [], "neg": ["a", "b"]}, {"query": "q", "pos": ["b"], "neg": ["c"]}]
    file.write_text("\n".join(map(json.dumps, rows)))
    data = FileConfig(path=str(file), dev_fraction=0, test_fraction=0).build()
    ((labels,),) = [data.splits["train"].judgements.values()]
    assert {data.documents[name]: label for name, label in labels.items()} == {"a": 0, "b": 1, "c": 0}


def test_they_train_bce_and_are_no_reason_to_refuse_a_loss_that_needs_a_positive(tmp_path: Path, tiny_bert_dir: Path):
    rows = [
        {"query": f"what is {w}", "pos": [f"{w} is red"] * (i % 3 > 0), "neg": ["a list"]} for i, w in enumerate(WORDS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = [
        "trainer=ranking",
        "model=cross_encoder",
        f"model.name_or_path={tiny_bert_dir}",
        "model.max_length=32",
        "data=file",
        f"data.path={tmp_path / 'rows.jsonl'}",
        "logger=none",
        f"output_dir={tmp_path}",
        *(f"trainer.{name}" for name in ("max_steps=2", "batch_size=4", "eval_every=2", "save_every=2", "workers=0")),
        "trainer.list_size=2",
        "engine.precision=fp32",
    ]
    for loss in ("bce", "softmax_cross_entropy"):
        train(load([*settings, f"loss={loss}", f"run_name={loss}"]))
        steps = [json.loads(line) for line in (tmp_path / loss / "metrics.jsonl").read_text().splitlines()]
        assert [step["loss"] > 0 for step in steps if step.get("split") == "train"] == [True, True]
