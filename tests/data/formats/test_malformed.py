"""Malformed data: one line that names file, line and remedy, and what data.on_error=skip leaves out. Nothing is lost
silently."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data.formats.file import FileConfig

GOOD = [{"query": f"what is {n}", "docs": [f"it is {n}", f"it is not {n}"], "labels": [1, 0]} for n in range(12)]
LINES = [json.dumps(row) for row in GOOD]
BY_ID = [f'{{"query": "what is {n}", "positive_ids": ["p{n}"], "negative_ids": ["n{n}"]}}' for n in range(12)]
CORPUS = [
    f'{{"_id": "{kind}{n}", "text": "it is {word}{n}"}}' for n in range(12) for kind, word in (("p", ""), ("n", "not "))
]
CSV = [
    "query,document,label",
    *(f"what is {n // 2},it is {(n % 2 and 'not ') or ''}{n // 2},{1 - n % 2}" for n in range(24)),
]
TRIPLES = [f"{n}\t{100 + n}\t{200 + n}" for n in range(12)]
PASSAGES = [f"{place + n}\tit is {word}{n}" for n in range(12) for place, word in ((100, ""), (200, "not "))]
ASKED = [f"{n}\twhat is {n}" for n in range(12)]
RUN = [f"{n} Q0 {place + n} {rank} {3.5 - rank} bm25" for n in range(12) for rank, place in ((1, 100), (2, 200))]
QRELS = [f"{n} 0 {place + n} {grade}" for n in range(12) for grade, place in ((1, 100), (0, 200))]
TEXTS = {"collection.tsv": "\n".join(PASSAGES), "queries.tsv": "\n".join(ASKED)}


def lines(rows: list[str], *bad: str, at: int = 2) -> str:
    """The rows with a bad one, or several, in the place of another one: line `at` + 1."""
    return "\n".join([*rows[:at], *bad, *rows[at + 1 :]]) + "\n"


def changed(**cells: object) -> str:
    row = {**GOOD[2], **cells}
    return lines(LINES, json.dumps({name: cell for name, cell in row.items() if cell != "absent"}))


@dataclass(frozen=True)
class Bad:
    """Files with a mistake: the error under on_error=stop, and how many rows on_error=skip leaves out (None: it stops
    as well, since nobody knows how many rows are lost)."""

    files: Mapping[str, str | bytes]
    message: str
    left_out: int | None = 1
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return next(iter(self.files))


def rows(content: str | bytes, message: str, left_out: int | None = 1, name: str = "rows.jsonl") -> Bad:
    return Bad({name: content}, f"{name}{message}", left_out)


def by_id(content: str, message: str, left_out: int | None = 1, corpus: str | None = None) -> Bad:
    return Bad({"rows.jsonl": content, "corpus.jsonl": corpus or "\n".join(CORPUS)}, message, left_out)


def trec(name: str, content: str, message: str) -> Bad:
    return Bad({name: content, **TEXTS}, f"{name}{message}")


ZIP = b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(range(256))
NO_ID = "which is no id of"
BROKEN = {
    "a truncated line": rows(
        lines(LINES, LINES[2][:30]),
        ":3: malformed JSON (Expecting value at column 31): the text is cut, write it again",
    ),
    "two objects in a line": rows(lines(LINES, LINES[2] * 2), ":3: malformed JSON (Extra data at column"),
    "a comma at the end": rows(
        lines(LINES, LINES[2] + ","), ":3: malformed JSON (Extra data at column 77): remove the"
    ),
    "a list for an object": rows(lines(LINES, '["q", "d"]'), ":3: expected a JSON object, got list: write it as {"),
    "a text for an object": rows(lines(LINES, '"q"'), ":3: expected a JSON object, got str"),
    "nested too deeply": rows(lines(LINES, '{"query": ' + "[" * 100_000), ":3: malformed JSON (nested too deeply)"),
    "a number of thousands of digits": rows(lines(LINES, f'{{"query": {"9" * 5000}}}'), ":3: malformed JSON (Exceeds"),
    "no query": rows(changed(query="absent"), ":3: columns docs, labels form no known layout; data.columns.FIELD"),
    "no documents": rows(changed(docs="absent"), ":3: columns query, labels form no known layout; data.columns.FIELD"),
    "an unknown column": rows(changed(colour="red"), ":3: unknown column 'colour': say what it is (data.columns"),
    "a query that is a number": rows(changed(query=7), ":3: 'query' must be a text, got int (a number? write it"),
    "a query that is null": rows(changed(query=None), ":3: no value in column 'query'"),
    "an empty query": rows(changed(query=" \u200b"), ":3: 'query' is empty"),
    "a document that is an object without a text": rows(
        changed(docs=[{"id": 1}, "x"]), ":3: 'docs' must be a text, got"
    ),
    "an empty list of documents": rows(changed(docs=[], labels=[]), ":3: no value in column 'docs'"),
    "more labels than documents": rows(changed(labels=[1, 0, 0]), ":3: 'labels' has 3 numbers for 2 documents"),
    "a label in words": rows(changed(labels=["yes", 0]), ":3: 'labels' must be a number, got 'yes': write 1 for yes"),
    "a label of a whole document": rows(changed(labels=["x" * 9999, 0]), ":3: 'labels' must be a number, got 'xxxxx"),
    "a negative label": rows(changed(labels=[1, -1]), ":3: 'labels' is -1: labels start at 0 (not relevant); shift"),
    "a label that is NaN": rows(changed(labels=[1, float("nan")]), ":3: 'labels' must be finite, got nan"),
    "a score that is infinite": rows(changed(scores=[1, float("inf")]), ":3: 'scores' must be finite, got inf"),
    "a negative weight": rows(changed(weight=-1), ":3: 'weight' must be at least 0, got -1"),
    "half of a surrogate pair": rows(changed(query="\ud800"), ":3: 'query' is not valid Unicode (lone surrogate"),
    "two labels in a row": rows(changed(docs=["x", "x"]), ":3: document 'x' of query 'what is 2' has the label 0, at"),
    "two labels in two rows": rows(
        lines(LINES, LINES[2], LINES[2].replace("[1, 0]", "[0, 1]")), ":4: document 'it is 2' of query 'what is 2' has"
    ),
    "another encoding": rows(
        lines(LINES, "@").encode().replace(b"@", '{"query": "été"}'.encode("latin1")),
        ":3: not UTF-8 (invalid continuation byte at byte 11): convert it (iconv -f latin1 -t utf8 ",
    ),
    "utf-16 without a mark": rows("\n".join(LINES).encode("utf-16le"), ":1: not UTF-8 (it has NUL bytes, as UTF", None),
    "a mark of utf-16 and no utf-16": rows(b"\xff\xfe\x00\xd8\x00", ":1: not UTF-16-LE, which its byte order", None),
    "a binary file": rows(bytes(range(256)) * 9, ":1: not text but a binary file (it has NUL bytes): give it", None),
    "a zip file": rows(ZIP, ":1: not text but a zip file", None, name="rows.csv"),
    "an empty file": rows("", ": it has no rows", None),
    "blank lines alone": rows("\n \n\n", ": it has no rows", None),
    "a header alone": rows("query,positive\n", ": it has no rows", None, name="rows.csv"),
    "no parquet": rows("nothing", ": not a parquet file (", None, name="rows.parquet"),
    "no arrow": rows("nothing", ": not an arrow file (", None, name="rows.arrow"),
    "a cut gzip": rows(
        gzip.compress("\n".join(LINES).encode())[:-9],
        ":1: broken gzip file (Compressed file ended",
        None,
        name="rows.jsonl.gz",
    ),
    "a gzip that is none": rows("\n".join(LINES), ":1: broken gzip file (", None, name="rows.jsonl.gz"),
    "a zstandard that is none": rows("\n".join(LINES), ":1: broken zstandard file (", None, name="rows.jsonl.zst"),
    "a cut list": rows("[\n" + ",\n".join(LINES), ":13: malformed JSON (", None, name="rows.json"),
    "two lists in an object": rows(
        f'{{"a": [{LINES[0]}], "b": [{LINES[1]}]}}',
        ": it holds rows under a and b: write each list to a file",
        None,
        name="rows.json",
    ),
    "an entry that is no object": rows(f"[{LINES[0]}, 7, {LINES[1]}]", ": entry 2: expected a JSON", name="rows.json"),
    "quotes left open": rows(lines(CSV, '"what is 1,it is,1'), ":3: malformed csv (a quote that is", None, "rows.csv"),
    "text after a quote": rows(lines(CSV, '"what" is 1,x,1'), ":3: malformed csv (", None, name="rows.csv"),
    "too many cells": rows(
        lines(CSV, "a,b,1,2"), ":3: expected 3 cells (query, document, label), got 4", name="rows.csv"
    ),
    "too few cells": rows(lines(CSV, "a,b"), ":3: expected 3 cells (query, document, label), got 2", name="rows.csv"),
    "a column twice": rows(lines(CSV, "a,b,a", at=0), ":1: the header names the column 'a' twice", None, "rows.csv"),
    "a document of no id": by_id(
        lines(BY_ID, BY_ID[2].replace("p2", "p99")), f":3: 'positive_ids' names 'p99', {NO_ID}"
    ),
    "an id that is an object": by_id(lines(BY_ID, BY_ID[2].replace('"p2"', "{}")), ":3: 'positive_ids' must be an id"),
    "an id that is a truth value": by_id(
        lines(BY_ID, BY_ID[2].replace('"p2"', "true")), ":3: 'positive_ids' must be an"
    ),
    "an empty id": by_id(
        lines(BY_ID, BY_ID[2].replace("p2", "")), ":3: 'positive_ids' must be an id (a text or a whole"
    ),
    "an id with two texts": by_id(
        lines(BY_ID, BY_ID[2]),
        "corpus.jsonl:3: id 'p0' has another text at",
        corpus=lines(CORPUS, '{"_id": "p0", "text": "x"}', CORPUS[2]),
    ),
    "an id without a text": by_id(
        lines(BY_ID, BY_ID[2]),
        "corpus.jsonl:25: no value in column 'text'",
        corpus=lines(CORPUS, CORPUS[23], '{"_id": "p", "text": null}', at=23),
    ),
    "texts without an id": by_id(
        "\n".join(BY_ID),
        "corpus.jsonl:3: no column of the id (it has: 'text'): name it _id",
        2,
        lines(CORPUS, '{"text": "x"}'),
    ),
    "a cut line of the corpus": by_id(
        "\n".join(BY_ID), "corpus.jsonl:3: malformed JSON (", 2, lines(CORPUS, '{"_id": "')
    ),
    "no corpus": Bad({"rows.jsonl": "\n".join(BY_ID)}, "no file beside it holds their texts: put corpus.jsonl", None),
    "a triple of two cells": trec(
        "triples.tsv", "\n".join([*TRIPLES * 2, "1\t2"]), ":25: expected 3 tab-separated cells"
    ),
    "a triple of no passage": trec(
        "triples.tsv", lines(TRIPLES, "2\t102\t999"), f":3: 'negative_id' names '999', {NO_ID}"
    ),
    "a triple of no query": trec("triples.tsv", lines(TRIPLES, "77\t102\t202"), f":3: 'query_id' names '77', {NO_ID}"),
    "a line of a run with five columns": trec(
        "x.run", lines(RUN, "1 Q0 101 1 2.5"), ":3: expected 6 columns (qid Q0 docid"
    ),
    "a score of a run that is NaN": trec(
        "x.run", lines(RUN, "1 Q0 101 1 nan x"), ":3: the score of document '101' is nan"
    ),
    "a score of a run in words": trec("x.run", lines(RUN, "1 Q0 101 1 high x"), ":3: the score (column 5) must be a"),
    "a document twice in a run": trec(
        "x.run", lines(RUN, RUN[3]), ":4: document '201' occurs twice for query '1'; keep"
    ),
    "a grade in words": trec(
        "x.qrels", lines(QRELS, "1 0 101 good"), ":3: the grade (column 4) must be a whole number"
    ),
}


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / next(iter(files))


def test_there_are_enough():
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_one_line_with_its_place(name: str, tmp_path: Path):
    bad = BROKEN[name]
    path = write(tmp_path, bad.files)
    with pytest.raises(ValueError) as caught:  # no other error, which would be a traceback
        FileConfig(path=str(path), cache_dir=str(tmp_path)).build()
    message = str(caught.value)
    assert bad.message in message
    assert "\n" not in message
    assert len(message) < 1500, "no whole document"
    assert any(str(tmp_path / file) in message for file in bad.files)


@pytest.mark.parametrize("name", BROKEN)
def test_skip_leaves_out_the_row_and_counts_it(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bad = BROKEN[name]
    path = write(tmp_path, bad.files)
    options = FileConfig(path=str(path), cache_dir=str(tmp_path), on_error="skip")
    if bad.left_out is None:
        with pytest.raises(ValueError, match=r"\S") as caught:
            options.build()
        assert bad.message in str(caught.value)
        return
    with caplog.at_level(logging.WARNING):
        data = options.build()
    assert len(data.skipped) == bad.left_out
    assert bad.message in f"{data.skipped[0]['where']}: {data.skipped[0]['error']}"
    said = [record.getMessage() for record in caplog.records if "left out (data.on_error=skip" in record.getMessage()]
    assert len(said) == 1
    assert f": {bad.left_out} row" in said[0]
    assert bad.message in said[0]


SAME = {
    "a byte order mark": b"\xef\xbb\xbf" + "\n".join(LINES).encode(),
    "carriage returns and line feeds": "\r\n".join(LINES).encode(),
    "carriage returns": "\r".join(LINES).encode(),
    "utf-16 with a mark": "\n".join(LINES).encode("utf-16"),
    "blank lines": "\n\n".join(LINES).encode(),
    "a list on one line": f"[{','.join(LINES)}]".encode(),
    "a list of several lines": f"[\n{','.join(LINES)}\n]".encode(),
    "a list inside an object": f'{{"version": 1, "data": [{",".join(LINES)}]}}'.encode(),
    "gzip without its suffix": gzip.compress("\n".join(LINES).encode()),
}


@pytest.mark.parametrize("name", SAME)
def test_other_ways_to_write_the_same_are_read(name: str, tmp_path: Path):
    path = write(tmp_path, {"rows.json": SAME[name]})
    read = [(r.query, r.documents, r.labels) for r in FileConfig(path=str(path)).records()]
    assert read == [(row["query"], row["docs"], row["labels"]) for row in GOOD]


def test_ids_may_be_numbers_and_texts(tmp_path: Path):
    rows = [f'{{"qid": {n}, "document_ids": ["{n}", {100 + n}], "scores": [1, 0]}}' for n in range(12)]
    texts = [f'{{"id": {n}, "text": "it is {n}"}}' for n in range(12)] + [
        f'{{"id": "{100 + n}", "text": "it is not {n}"}}' for n in range(12)
    ]
    asked = [f'{{"id": {n}.0, "text": "what is {n}"}}' for n in range(12)]
    files = {"rows.jsonl": rows, "documents.jsonl": texts, "queries.jsonl": asked}
    path = write(tmp_path, {name: "\n".join(content) for name, content in files.items()})
    read = [(r.query, r.documents) for r in FileConfig(path=str(path)).records()]
    assert read == [(row["query"], row["docs"]) for row in GOOD]


def test_semicolons_and_decimal_commas(tmp_path: Path):
    rows = ["query;document;score", *(f"what is {n};it is {n};0,{n}" for n in range(1, 10))]
    path = write(tmp_path, {"rows.csv": "\n".join(rows)})
    assert [r.labels for r in FileConfig(path=str(path)).records()] == [[n / 10] for n in range(1, 10)]


def test_a_line_of_50_megabytes(tmp_path: Path):
    """It is read; a cut one is named, in a message that does not repeat it."""
    long = json.dumps({**GOOD[2], "docs": ["x" * 50_000_000, "y"]})
    path = write(tmp_path, {"rows.jsonl": lines(LINES, long)})
    assert [len(r.documents[0]) for r in FileConfig(path=str(path)).records()][2] == 50_000_000
    write(tmp_path, {"rows.jsonl": lines(LINES, long[:-9])})
    with pytest.raises(ValueError, match=r"rows.jsonl:3: malformed JSON \(") as caught:
        list(FileConfig(path=str(path)).records())
    assert len(str(caught.value)) < 500


def test_many_mistakes_are_all_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bad = ["{", json.dumps({**GOOD[0], "labels": [1]}), '{"query": "q"}', '{"query": "r"}']
    path = write(tmp_path, {"rows.jsonl": "\n".join([*LINES, *bad])})
    with caplog.at_level(logging.WARNING):
        data = FileConfig(path=str(path), cache_dir=str(tmp_path), on_error="skip").build()
    assert [row["where"] for row in data.skipped] == [f"{path}:{number}" for number in (13, 14, 15, 16)]
    assert sum(len(split.queries) for split in data.splits.values()) == len(GOOD)
    said = "rows.jsonl: 4 rows are left out (data.on_error=skip; listed in skipped.jsonl of a run, in output=FILE"
    said += " of evaluate.py); the first: "
    assert f"{said}{path}:13: malformed JSON" in caplog.text
    assert (
        data.fingerprint
        == FileConfig(path=str(write(tmp_path, {"rows.jsonl": "\n".join(LINES)})), cache_dir=str(tmp_path))
        .build()
        .fingerprint
    )


def test_all_rows_are_wrong(tmp_path: Path):
    path = write(tmp_path, {"rows.jsonl": '{"\n{"\n'})
    with pytest.raises(
        ValueError, match=r"data.path=.*rows.jsonl: all its rows are left out, the first: .*:1: malformed"
    ):
        FileConfig(path=str(path), on_error="skip").build()


def test_the_error_of_a_row_names_the_option_that_leaves_it_out(tmp_path: Path):
    """An empty positive beside nothing else is such a row; columns that are not known are those of all rows."""
    hint = r" \(data.on_error=skip leaves such rows out\)$"
    path = write(tmp_path, {"rows.jsonl": '{"query": "q", "positive": "p"}\n{"query": "r", "positive": ""}\n'})
    with pytest.raises(ValueError, match=r"rows.jsonl:2: no value in column 'positive' \(positive\)" + hint):
        FileConfig(path=str(path), cache_dir=str(tmp_path)).build()
    write(tmp_path, {"rows.jsonl": '{"query": "q", "positive": "p"}\n{"query": " ", "positive": "p"}\n'})
    with pytest.raises(ValueError, match=r"rows.jsonl:2: 'query' is empty" + hint):
        FileConfig(path=str(path), cache_dir=str(tmp_path)).build()
    write(tmp_path, {"rows.jsonl": '{"query": "q", "other": "p"}\n'})
    with pytest.raises(ValueError, match=r"^((?!on_error).)*$"):
        FileConfig(path=str(path), cache_dir=str(tmp_path)).build()


def test_on_error_is_checked():
    with pytest.raises(ValueError, match=r"^data.on_error=ignore must be one of stop, skip$"):
        FileConfig(path="x", on_error="ignore")
