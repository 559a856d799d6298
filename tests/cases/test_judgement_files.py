"""Judgements as people have them: no score, 1.0, TREC's columns, no header, validation.tsv, one split, the hub."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.formats.beir import BEIRConfig, HubParts, read_folder, read_hub
from data.formats.skipped import SkippedRows
from launch.cli.compose import load
from recipes.evaluate.run import evaluate

SIZE = 20
HEADER = "query-id\tcorpus-id\tscore\n"
ONES = {f"q{i}": {f"d{i}": 1} for i in range(SIZE)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder without judgements: query qi asks for document di."""
    (tmp_path / "qrels").mkdir()
    for name, word in (("corpus", "tells"), ("queries", "asks")):
        rows = [{"_id": f"{'d' if name == 'corpus' else 'q'}{i}", "text": f"{word} topic{i}"} for i in range(SIZE)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def write(folder: Path, text: str, name: str = "test.tsv") -> None:
    (folder / "qrels" / name).write_text(text)


def rows(pattern: str, numbers: range = range(SIZE)) -> str:
    return "".join(pattern.format(i=i) + "\n" for i in numbers)


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\n" + rows("q{i}\td{i}"),
        "\tquery-id\tcorpus-id\n" + rows("{i}\tq{i}\td{i}"),
        "Unnamed: 0\tquery-id\tcorpus-id\n" + rows("{i}\tq{i}\td{i}"),
        "\tquery-id\tcorpus-id\tscore\n" + rows("{i}\tq{i}\td{i}\t1"),
        "query-id\rcorpus-id\n".replace("\r", "\t").replace("\n", "\r") + rows("q{i}\td{i}").replace("\n", "\r"),
        "corpus-id\tquery-id\n" + rows("d{i}\tq{i}"),
        HEADER + rows("q{i}\td{i}\t1.0"),
        "Query_ID\tCorpus_ID\tScore\n" + rows("q{i}\td{i}\t1"),
        "query-id corpus-id score\n" + rows("q{i} d{i} 1"),
        "query-id\titeration\tcorpus-id\tscore\n" + rows("q{i}\tQ0\td{i}\t1"),
        rows("q{i} 0 d{i} 1"),
        rows("q{i}\t0\td{i}\t1"),
        rows("q{i}\td{i}\t1.0"),
        rows("q{i}\td{i}"),
        rows("q{i}  Q0  d{i}  1 "),
    ],
)
def test_every_layout_gives_the_same_judgements(folder: Path, text: str) -> None:
    write(folder, text)
    assert read_folder(folder).qrels == {"test": ONES}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "q0\td0\t0.5\n", "test.tsv:2: the score must be an integer, got '0.5'"),
        (HEADER + "q0\td0\t\n", "test.tsv:2: the score must be an integer, got ''"),
        (HEADER + "q0\td0\tnan\n", "test.tsv:2: the score must be an integer, got 'nan'"),
        (HEADER + "q0\td0\tinf\n", "test.tsv:2: the score must be an integer, got 'inf'"),
        ("query-id\tcorpus-id\tlabel\nq0\td0\t0\n", "expected the header query-id corpus-id score (score may be"),
        ("q0 d0 1 2 3\n", "test.tsv:1: expected the header query-id corpus-id score (tab-separated), or no header"),
        ("q0 0 d0 1\nq1 0 d1\n", "test.tsv:2: expected 4 columns, got 3"),
        ("", "test.tsv:1: expected the header"),
    ],
)
def test_other_layouts_are_refused_in_one_line(folder: Path, text: str, message: str) -> None:
    write(folder, text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["validation.tsv", "valid.tsv", "val.tsv", "validation.tsv.gz"])
def test_the_validation_file_is_dev(folder: Path, tmp_path: Path, name: str) -> None:
    write(folder, HEADER + rows("q{i}\td{i}\t1", range(10)), "train.tsv")
    dev = (HEADER + rows("q{i}\td{i}\t1", range(10, 15))).encode()
    (folder / "qrels" / name).write_bytes(gzip.compress(dev) if name.endswith("gz") else dev)
    data = BEIRConfig(path=str(folder), cache_dir=str(tmp_path)).build()
    assert {split: len(found.queries) for split, found in data.splits.items()} == {"train": 10, "dev": 5}


def test_two_files_of_one_split_are_refused_and_unknown_ones_named(folder: Path, caplog) -> None:
    for name in ("test.tsv", "dev.tsv", "judged.tsv", "more.tsv"):
        write(folder, HEADER + rows("q{i}\td{i}\t1", range(5)), name)
    read_folder(folder, "qrels/more.tsv")
    assert [line for line in caplog.messages if "not read" in line] == [
        f"{folder / 'qrels'}: not read: judged.tsv (splits are train.tsv, dev.tsv or validation.tsv, test.tsv)"
    ]
    write(folder, HEADER, "validation.tsv")
    with pytest.raises(ValueError, match=r"dev.tsv and validation.tsv are both judgements of dev; keep one"):
        read_folder(folder)


def evaluated(folder: Path, *settings: str) -> dict:
    output = folder / "out.json"
    options = ["model=bm25", "data=beir", f"data.path={folder}", f"data.cache_dir={folder}", f"output={output}"]
    evaluate(load([*options, *settings], "evaluate"))
    return json.loads(output.read_text())


def test_a_single_split_is_measured_with_all_its_queries(folder: Path) -> None:
    write(folder, HEADER + rows("q{i}\td{i}\t1"), "train.tsv")
    assert evaluated(folder, "split=train")["test_queries"] == SIZE
    with pytest.raises(ValueError, match=r"has no test split: add its judgements, or choose split=train or split=dev"):
        evaluated(folder)
    training = BEIRConfig(path=str(folder), cache_dir=str(folder)).build()
    assert len(training.split("train").queries) < SIZE, "a training run still holds dev out"


CORPUS, QUERIES = [{"_id": "d1", "title": "", "text": "a text"}], [{"_id": "q1", "text": "a question"}]
PAIR = {"query-id": "q1", "corpus-id": "d1"}
HUB = {
    "mteb/one": {
        "default": {"test": [{**PAIR, "score": 1.0}]},
        "corpus": {"corpus": CORPUS},
        "queries": {"queries": QUERIES},
    },
    "nano/one": {"qrels": {"train": [PAIR]}, "corpus": {"train": CORPUS}, "queries": {"train": QUERIES}},
    "BeIR/one": {"corpus": {"corpus": CORPUS}, "queries": {"queries": QUERIES}},
    "BeIR/one-qrels": {"default": {"validation": [{**PAIR, "score": 1}]}},
}


@pytest.mark.parametrize(("name", "split"), [("mteb/one", "test"), ("nano/one", "train"), ("BeIR/one", "dev")])
def test_layouts_of_the_hub(monkeypatch: pytest.MonkeyPatch, name: str, split: str) -> None:
    def load_dataset(name: str, part: str = "default") -> object:
        return HUB[name][part]  # a KeyError stands for the hub's own errors

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read_hub(HubParts.load(name), SkippedRows()).qrels == {split: {"q1": {"d1": 1}}}
