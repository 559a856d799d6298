"""Data sets with one planted fault each: it is found and named, and nothing else is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.inspect_data import inspect_path, main

SUBJECTS = ("anvil", "bellows", "chisel", "drill", "easel", "file", "gouge", "hammer", "iron", "jig", "knife", "lathe")
LINKS = ("of", "the", "near", "behind", "nobody", "made", "old", "new", "and", "with", "broken", "small")
PLACES = ("workshop", "forge", "studio", "harbour", "garden")


def question(number: int) -> str:
    return f"who made the {SUBJECTS[number % 12]} of the {PLACES[number % 5]} in {1700 + number}"


def answer(number: int) -> str:
    """A text of fourteen words, which shares few runs of words with those of other numbers."""
    return f"{number}: " + " ".join(random.Random(number).choices((*SUBJECTS, *PLACES, *LINKS), k=14))


def triplets() -> list[dict[str, Any]]:
    """Rows without a fault."""
    return [
        {"query": question(i), "positive": answer(i), "negative": f"Number {i} has nothing to say of it"}
        for i in range(40)
    ]


def labelled() -> list[dict[str, Any]]:
    return [
        {"query": question(i // 2), "document": f"document {i} about {PLACES[i % 5]}", "label": i % 2}
        for i in range(60)
    ]


Table = dict[str, list[Any]]


def collection() -> Table:
    """A collection in BEIR's layout without a fault."""
    texts = [f"entry {i}: {SUBJECTS[i % 12]} {SUBJECTS[(i * 5 + 1) % 12]} {PLACES[i % 5]}" for i in range(60)]
    return {
        "corpus": [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)],
        "queries": [{"_id": f"q{i}", "text": question(i)} for i in range(40)],
        "train": [(f"q{i}", f"d{i}", 1) for i in range(30)] + [("q0", "d50", 0)],
        "test": [(f"q{i}", f"d{i}", 1) for i in range(30, 40)],
    }


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder / name


def write_collection(folder: Path, table: Table) -> Path:
    (folder / "beir" / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        write_rows(folder / "beir", table[name], f"{name}.jsonl")
    for split in ("train", "test"):
        if split in table:
            lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in table[split])]
            (folder / "beir" / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder / "beir"


def with_row(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """The rows, the eighth with other cells."""
    return [*rows[:7], {**rows[7], **changes}, *rows[8:]]


def table_with(**changes: Callable[[list[Any]], list[Any]]) -> Table:
    table = collection()
    return {name: changes[name](rows) if name in changes else rows for name, rows in table.items()}


ROWS = {  # name of the fault -> severity, place, rows
    "positives as negatives": (
        "warning",
        "rows.jsonl:8: ",
        with_row(triplets(), negative=triplets()[7]["positive"].upper()),
    ),
    "conflicting labels": ("error", "rows.jsonl:61: 0, at", [*labelled(), {**labelled()[1], "label": 0}]),
    "duplicate rows": ("warning", "rows.jsonl:41: as", [*triplets(), triplets()[3]]),
    "mojibake": (
        "warning",
        "rows.jsonl:8: ",
        with_row(triplets(), positive="Le café est à côté".encode().decode("cp1252") + " de la forge"),
    ),
    "replacement characters": ("warning", "rows.jsonl:8: ", with_row(triplets(), query="who made the an\ufffdil")),
    "control characters": ("warning", "rows.jsonl:8: ", with_row(triplets(), positive="a smith\x07 from the forge")),
    "empty documents": ("warning", "rows.jsonl:8: ", with_row(triplets(), negative=" \u200b")),
    "near-duplicate documents": (
        "note",
        "rows.jsonl:8: 93% as",
        with_row(triplets(), positive=f"{triplets()[5]['positive']} indeed"),
    ),
}
COLLECTIONS = {
    "conflicting labels": ("error", "train.tsv:33: ", table_with(train=lambda rows: [*rows, ("q0", "d0", 0)])),
    "leakage": ("warning", "queries.jsonl:4: ", table_with(test=lambda rows: [*rows, ("q3", "d3", 1)])),
    "near leakage": (
        "warning",
        "queries.jsonl:3: ",
        table_with(
            queries=lambda rows: [*rows[:35], {"_id": "q35", "text": f"{rows[2]['text'].title()}?"}, *rows[36:]]
        ),
    ),
    "dangling ids": ("warning", "test.tsv:12: ", table_with(test=lambda rows: [*rows, ("q31", "d999", 1)])),
    "repeated ids": (
        "error",
        "corpus.jsonl:61: 'd4'",
        table_with(corpus=lambda rows: [*rows, {"_id": "d4", "title": "", "text": "another text"}]),
    ),
    "duplicate documents": (
        "warning",
        "corpus.jsonl:61: 'd60' as 'd4'",
        table_with(corpus=lambda rows: [*rows, {"_id": "d60", "title": "", "text": rows[4]["text"].upper()}]),
    ),
    "duplicate queries": (
        "warning",
        "queries.jsonl:6: 'q5' as 'q2'",
        table_with(queries=lambda rows: [*rows[:5], {"_id": "q5", "text": rows[2]["text"]}, *rows[6:]]),
    ),
    "empty documents": (
        "warning",
        "corpus.jsonl:8: 'd7'",
        table_with(corpus=lambda rows: [*rows[:7], {"_id": "d7", "title": "", "text": ""}, *rows[8:]]),
    ),
    "queries without a relevant document": (
        "warning",
        "train.tsv:9: query 'q7'",
        table_with(train=lambda rows: [*rows[:7], ("q7", "d7", 0), *rows[8:]]),
    ),
    "no train queries": ("error", "", {name: rows for name, rows in collection().items() if name != "train"}),
    "no test queries": ("error", "", {name: rows for name, rows in collection().items() if name != "test"}),
}


@pytest.fixture
def settings(tiny_bert_dir: Path, tmp_path: Path) -> list[str]:
    return [f"data.cache_dir={tmp_path / 'cache'}", "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}"]


@pytest.mark.parametrize("rows", [triplets(), labelled()], ids=["triplets", "labelled"])
def test_nothing_is_found_in_rows_without_a_fault(rows, settings, tmp_path):
    assert inspect_path(str(write_rows(tmp_path, rows)), settings).findings == []


def test_nothing_is_found_in_a_collection_without_a_fault(settings, tmp_path):
    inspection = inspect_path(str(write_collection(tmp_path, collection())), settings)
    assert inspection.findings == []
    assert inspection.format == "BEIR"
    assert not inspection.fails


@pytest.mark.parametrize("name", ROWS)
def test_the_fault_of_rows_is_named(name, settings, tmp_path):
    severity, place, rows = ROWS[name]
    check(inspect_path(str(write_rows(tmp_path, rows)), settings), name, severity, place)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_the_fault_of_a_collection_is_named(name, settings, tmp_path):
    severity, place, table = COLLECTIONS[name]
    check(inspect_path(str(write_collection(tmp_path, table)), settings), name, severity, place)


def check(inspection, name: str, severity: str, place: str) -> None:
    [finding] = inspection.findings
    assert (finding.name, finding.severity) == (name, severity)
    assert finding.advice
    assert place in (finding.examples or ("",))[0]
    assert inspection.fails == (severity == "error")
    assert (inspection.losses is None) == inspection.fails


def test_long_texts(tiny_bert_dir, tmp_path):
    given = [f"data.cache_dir={tmp_path}", "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}"]
    inspection = inspect_path(str(write_rows(tmp_path, triplets())), [*given, "model.max_length=16"])
    check(inspection, "long texts", "warning", "")


def test_a_chosen_loss_that_does_not_fit(settings, tmp_path):
    file = str(write_rows(tmp_path, triplets()))
    assert not inspect_path(file, [*settings, "loss=dpo"]).findings
    [finding] = inspect_path(file, [*settings, "loss=margin_mse"]).findings
    assert (finding.name, finding.severity) == ("loss does not fit", "error")
    assert "teacher_scores" in finding.message


def test_what_training_refuses_is_an_error(settings, tmp_path):
    """All queries of train are in test: training would have none left."""
    path = write_rows(tmp_path, triplets())
    inspection = inspect_path(str(path), [*settings, f"data.test_path={path}"])
    assert [finding.name for finding in inspection.findings] == ["refused", "leakage"]
    assert "none is left" in inspection.findings[0].message


def test_the_exit_status(settings, tmp_path, capsys):
    main([str(write_rows(tmp_path, triplets())), *settings])
    assert capsys.readouterr().out.splitlines()[-1].startswith("result: fit for training: nothing found")
    with pytest.raises(SystemExit) as stopped:
        main([str(write_rows(tmp_path, ROWS["conflicting labels"][2])), *settings])
    assert stopped.value.code == 1
    assert "\nerror: conflicting labels: 1 document has two labels" in capsys.readouterr().out
