"""Tables as spreadsheets and pandas write them: separators, decimal commas, indices, line ends, orients of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.formats.columns import ListRecord
from data.formats.delimited import read_delimited
from data.formats.file import FileConfig
from data.formats.jsonl import read_lines

ROWS = [("what is red", "an apple, or two"), ("what is green", "a pear"), ("what is blue", "the sky, often")]


def read(path: Path, text: str, **options: Any) -> list[ListRecord]:
    path.write_text(text, newline="")
    return list(FileConfig(path=str(path), **options).records())


def table(header: str, row: str, end: str = "\n") -> str:
    return end.join([header, *(row.format(i, *texts) for i, texts in enumerate(ROWS))]) + end


TABLES = {
    "a comma in the header": ("query;document, or text", "{1};{2}", ("document, or text",)),
    "a semicolon in the header": ("query,document; a text", '{1},"{2}"', ("document; a text",)),
    "a comma in all cells": ("query;document, or text", "{1};{2}, yes", ("document, or text",)),
    "tabs and a comma": ("query\tdocument, or text", "{1}\t{2}", ("document, or text",)),
    "bars": ("query|document", "{1}|{2}", ()),
    "Excel's first line": ("sep=;\nquery;document", "{1};{2}", ()),
    "Excel's first line, a tab": ("SEP=\t\nquery\tdocument", "{1}\t{2}", ()),
    "an index of texts": (",query,document", 'row{0},{1},"{2}"', ()),
    "an index below 0": (",query,document", '-{0},{1},"{2}"', ()),
    "an index of two levels": (",,query,document", 'a,{0},{1},"{2}"', ()),
    "an index read again": (",Unnamed: 0.1,Unnamed: 0,query,document", '{0},{0},{0},{1},"{2}"', ()),
    "empty columns at the end": ("query,document,,", '{1},"{2}",,', ()),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read(name: str, end: str, tmp_path: Path):
    header, row, columns = TABLES[name]
    text = table(header, row).replace("\n", end)
    records = read(tmp_path / "rows.csv", text, columns=dict(zip(["document"], columns, strict=False)))
    more = ", yes" if name == "a comma in all cells" else ""
    assert [(record.query, record.documents) for record in records] == [(q, [f"{d}{more}"]) for q, d in ROWS]
    assert [record.where.rpartition(":")[2] for record in records][:1] == [str(2 + header.count("\n"))]


def test_decimal_commas_of_a_file_with_semicolons(tmp_path: Path):
    numbers = {"0,5": 0.5, "3": 3, "1,25": 1.25, "1.000,5": 1000.5, "1,50E+00": 1.5, "0.5": 0.5, " ,5": 0.5}
    text = "query;document;label\n" + "".join(f"{i};0,5;{number}\n" for i, number in enumerate(numbers))
    records = read(tmp_path / "rows.csv", text)
    assert [record.labels for record in records] == [[number] for number in numbers.values()]
    assert {document for record in records for document in record.documents} == {"0,5"}
    assert type(records[0].documents[0]) is str
    for name, text in (
        ("a.csv", 'query,document,label\nq,d,"0,5"\n'),
        ("b.tsv", "query\tdocument\tlabel\nq\td\t0,5\n"),
    ):
        with pytest.raises(ValueError, match=r":2: 'label' must be a number, got '0,5': write a point for the decimal"):
            read(tmp_path / name, text)


def test_cells_without_a_column_and_carriage_returns_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"rows.csv:2: the column of the cell 'x' has no name: name it in the header"):
        read(tmp_path / "rows.csv", "query,document,,\nq,d,,x\n")
    with pytest.raises(ValueError, match=r"rows.csv:2: the column of the cell 'note' has no name"):
        read(tmp_path / "rows.csv", ",query,document,\n0,q,d,note\n")
    assert read(tmp_path / "rows.csv", ",query,document,\n0,q,d,\n")[0].documents == ["d"]
    with pytest.raises(ValueError, match=r"rows.csv:1: the header names the column 'query' twice"):
        read(tmp_path / "rows.csv", ",query,query\n1,q,d\n")
    text = 'query,document\rq,"two\nlines"\rr,d\r'
    with pytest.raises(ValueError, match=r"malformed csv \(a carriage return outside quotes.*tr '.r' '.n' < FILE\)"):
        read(tmp_path / "rows.csv", text)
    assert [record.documents for record in read(tmp_path / "rows.csv", text.replace("\r", "\n"))] == [
        ["two\nlines"],
        ["d"],
    ]


def test_a_carriage_return_inside_a_file_with_line_feeds_is_text(tmp_path: Path):
    (tmp_path / "rows.tsv").write_text("query\tdocument\nq\tone\rtwo\n", newline="")
    with pytest.raises(ValueError, match="carriage return"):
        list(read_delimited(tmp_path / "rows.tsv"))
    (tmp_path / "last.txt").write_text("one\rtwo\nthree\rfour", newline="")
    assert [line for _, line in read_lines(tmp_path / "last.txt")] == ["one\rtwo", "three\rfour"]
    (tmp_path / "rows.csv").write_text('query,document\nq,"one\rtwo"\n', newline="")
    assert [row["document"] for _, row in read_delimited(tmp_path / "rows.csv")] == ["one\rtwo"]


@pytest.mark.parametrize("names", [("query", "document"), ("frage", "antwort")])
@pytest.mark.parametrize("orient", ["records", "split", "index", "columns", "table"])
@pytest.mark.parametrize("index", [None, ["a", "b", "c"], [7, 8, 9]], ids=str)
@pytest.mark.parametrize("indent", [None, 2])
def test_orients_of_pandas(orient: str, names: tuple[str, str], index: Any, indent: int | None, tmp_path: Path):
    from pandas import DataFrame

    text = DataFrame(ROWS, columns=list(names), index=index).to_json(orient=orient, indent=indent)
    columns = {} if names[0] == "query" else {"query": "frage", "document": "antwort"}
    records = read(tmp_path / "rows.json", str(text), columns=columns)
    assert [(record.query, record.documents) for record in records] == [(query, [text]) for query, text in ROWS]


def test_values_without_names_and_ragged_rows_are_named(tmp_path: Path):
    message = r"rows.json: entry 1: expected a JSON object, got list: write "
    with pytest.raises(ValueError, match=message + 'it as {"query": ..., "positive": ...}'):
        read(tmp_path / "rows.json", json.dumps(ROWS))
    with pytest.raises(ValueError, match=message + r"each row as an object .*orient='records'"):
        read(tmp_path / "rows.json", json.dumps([[*row, 1] for row in ROWS]))
    with pytest.raises(ValueError, match=r"rows.json: entry 1: expected 2 cells \(query, document\), got 1"):
        read(tmp_path / "rows.json", json.dumps({"columns": ["query", "document"], "data": [["q"]]}))


@pytest.mark.parametrize(
    "blank", ["", " \n", "\u200b", "\ufeff \u2060", "\u00ad\u200d", "\u3164", "\ufe0f", "\u2800", "\0"]
)
def test_a_text_without_a_visible_character_is_empty(blank: str, tmp_path: Path):
    row = {"query": "q", "pos": ["x"], "neg": ["n", blank]}
    records = read(tmp_path / "rows.jsonl", json.dumps(row))
    assert [(record.documents, record.num_empty) for record in records] == [(["x", "n"], 1)]
    with pytest.raises(ValueError, match=r"rows.jsonl:1: no value in column 'pos' \(positive\)"):
        read(tmp_path / "rows.jsonl", json.dumps({**row, "pos": [blank], "neg": [blank]}))
    with pytest.raises(ValueError, match=r"rows.jsonl:1: 'query' is empty"):
        read(tmp_path / "rows.jsonl", json.dumps({**row, "query": blank}))
    for visible in ("\u0301", "\U0001f600", "।", "?", "\u200bx"):
        assert read(tmp_path / "rows.jsonl", json.dumps({**row, "neg": [visible]}))[0].documents == ["x", visible]
