"""Data sets with one planted fault each: it is found and named, and nothing else is."""

from __future__ import annotations

import json
import random
import re
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


def swapped() -> list[dict[str, Any]]:
    """Answers that ask for questions."""
    return [{"query": answer(i), "positive": f"{question(i)}?"} for i in range(40)]


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
    "duplicate documents": (
        "warning",
        "rows.jsonl:8: as",
        with_row(triplets(), positive=triplets()[5]["positive"].upper()),
    ),
    "queries as positives": (
        "warning",
        "rows.jsonl:8: 'WHO made",
        with_row(triplets(), positive=question(7).replace("who", "WHO")),
    ),
    "swapped columns": ("warning", "rows.jsonl:1: query '0: ", swapped()),
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


def test_labels_of_queries_that_differ_in_case_alone(settings, tmp_path):
    rows = [*labelled(), {**labelled()[1], "query": question(0).upper(), "label": 0}]
    check(inspect_path(str(write_rows(tmp_path, rows)), settings), "conflicting labels", "warning", ":61: 0, at")


def test_swapped_columns_of_data_that_are_read_in_part(settings, tmp_path):
    inspection = inspect_path(str(write_rows(tmp_path, swapped())), settings, rows=20)
    assert not inspection.said
    check(inspection, "swapped columns", "warning", "rows.jsonl:1: query")


@pytest.mark.parametrize(
    ("rows", "usable"),
    [
        ([{**row, "label": 0} for row in labelled()], "of its 30 queries 0 can be"),
        (triplets()[:2], "of its 2 queries 2 can be"),
    ],
)
def test_too_few_queries_to_evaluate(rows, usable, settings, tmp_path):
    [finding] = inspect_path(str(write_rows(tmp_path, rows)), settings).findings
    assert (finding.name, finding.severity) == ("refused", "error")
    assert re.search(rf"no test split: {usable} evaluated .*data.test_path=FILE", finding.message)


def test_rows_that_are_left_out(settings, tmp_path):
    """data.on_error=skip: what training leaves out is a warning, and nothing is refused."""
    skip = [*settings, "data.on_error=skip"]
    rows = write_rows(tmp_path, [*labelled(), {**labelled()[1], "label": 0}])
    check(inspect_path(str(rows), skip), "conflicting labels", "warning", "rows.jsonl:61: 0, at")
    rows.write_text(rows.read_text().partition("\n")[2] + '{"query": "x", "positive": 5}\n{"broken\n')
    found = inspect_path(str(rows), skip).findings
    assert [(each.name, each.severity) for each in found] == [
        ("skipped rows", "warning"),
        ("conflicting labels", "warning"),
    ]
    assert found[0].message.startswith("2 rows cannot be read")


def test_rows_of_a_collection_that_are_left_out(settings, tmp_path):
    """As training reads it: the broken rows, the later ones of an id, judgements without a text."""
    path = write_collection(tmp_path, table_with(train=lambda rows: [*rows, ("q1", "d1", "much"), ("q0", "d0", 0)]))
    queries = path / "queries.jsonl"
    lines = queries.read_text().splitlines()
    queries.write_text("\n".join([*lines[:5], '{"_id": "q5", "text": 7}', *lines[6:], lines[0]]) + "\n")
    with pytest.raises(ValueError, match=r"queries.jsonl:6: 'text' must be of type str"):
        inspect_path(str(path), settings)
    inspection = inspect_path(str(path), [*settings, "data.on_error=skip"])
    found = {finding.name: finding for finding in inspection.findings}
    assert {name: finding.severity for name, finding in found.items()} == dict.fromkeys(
        ("skipped rows", "repeated ids", "conflicting labels", "dangling ids"), "warning"
    )
    assert found["skipped rows"].message.startswith("2 rows cannot be read")
    assert "queries.jsonl:6: 'text' must be of type str" in found["skipped rows"].examples[0]
    assert inspection.losses is not None


@pytest.mark.parametrize("part", ["corpus", "queries", "train", "test"])
def test_the_empty_file_of_a_collection_is_named(part, settings, tmp_path):
    path = write_collection(tmp_path, {**collection(), part: []})
    with pytest.raises(ValueError, match=rf"/{part}\.\w+: it is empty"):
        inspect_path(str(path), settings)


def test_grades_of_a_collection_that_are_not_relevant(settings, tmp_path):
    grades = [(f"q{i}", f"d{i}", 1 if i < 5 else 3) for i in range(30)]
    path = write_collection(tmp_path, {**collection(), "train": grades, "test": [("q31", "d31", 3)]})
    inspection = inspect_path(str(path), [*settings, "data.relevant_from=2"])
    check(inspection, "queries without a relevant document", "warning", "train.tsv:2: query 'q0'")
    assert inspection.splits[0].labels == {"0": 5, "3": 25}
    assert inspection.facts["queries"].startswith("train 27, dev 3, test 1")


def test_a_loss_that_the_model_does_not_fit(tiny_reranker_dir, tmp_path):
    model = ["model=cross_encoder", f"model.name_or_path={tiny_reranker_dir}", f"data.cache_dir={tmp_path}"]
    file = str(write_rows(tmp_path, triplets()))
    inspection = inspect_path(file, [*model, "loss=info_nce"])
    [finding] = inspection.findings
    assert (finding.name, finding.severity) == ("loss does not fit", "error")
    assert "an embedding of each text" in finding.message
    assert "info_nce" not in inspection.losses.fit
    assert any("info_nce" in names for lacking, names in inspection.losses.others.items() if "an embedding" in lacking)
    assert not inspect_path(file, [*model, "loss=lambda_rank"]).findings


def test_a_model_without_tokens(tmp_path):
    file = str(write_rows(tmp_path, triplets()))
    with pytest.raises(ValueError, match="this model has no tokens to count, and is not trained: choose model="):
        inspect_path(file, ["model=bm25"])


def test_the_model_of_another_command_has_its_prompt(tiny_causal_dir, tmp_path):
    file = str(write_rows(tmp_path, triplets()))
    given = ["model=llm_reasoner_smollm2", f"model.name_or_path={tiny_causal_dir}", f"data.cache_dir={tmp_path}"]
    assert inspect_path(file, given).roles[0].tokens is not None


def test_a_page_that_cannot_be_written_is_said_before(settings, tmp_path, capsys):
    file = str(write_rows(tmp_path, triplets()))
    with pytest.raises(ValueError, match=r"--html .*/nope/x.html: there is no folder .*/nope: make it"):
        main([file, *settings, "--html", str(tmp_path / "nope" / "x.html")])
    with pytest.raises(ValueError, match="it is a folder: name a file in it"):
        main([file, *settings, "--html", str(tmp_path)])
    assert capsys.readouterr().out == ""
    main([file, *settings, "--html", str(tmp_path / "x.html")])
    assert "fit for training: nothing found" in (tmp_path / "x.html").read_text()


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
