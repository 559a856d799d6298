"""Arbitrary content for every reader: records, or one line that names the file; with on_error=skip every line is either
read or noted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.formats.file import FileConfig
from data.formats.file_format import file_formats

SUFFIXES = sorted({suffix for each in file_formats() for suffix in (each.suffixes[0], each.suffixes[-1])})
NAMES = (
    *(
        "query",
        "positive",
        "negative",
        "docs",
        "labels",
        "scores",
        "chosen",
        "rejected",
        "prompt",
        "messages",
        "weight",
    ),
    *("query_id", "document_ids", "positive_document_ids", "positive_ctxs", "candidates", "passages", "label", "set"),
)
QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("text", "title", "role", "content", "score", "qid")), inner, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(NAMES), CELLS, max_size=4), max_size=6)
LINES = st.lists(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(
        ("1\t2\t3", "1 0 2 1", "1 Q0 2 1 0.5 x", "query,positive", "q,p", "query\tpositive", "q\tp", "{}", "[]", '"')
    ),
    max_size=8,
)


def read(name: str, content: bytes, on_error: str = "stop") -> tuple[int, int]:
    """The number of records and of rows that are left out. Any other error than a user's mistake fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows" / name  # texts are looked for in the folder above too
        path.parent.mkdir()
        path.write_bytes(content)
        reader = FileConfig(path=str(path), on_error=on_error).reader()
        try:
            number = sum(1 for split in reader.splits for _ in reader.records(split))
        except (ValueError, FileNotFoundError) as error:
            message, number = str(error), -1
        else:
            message = path.name
        assert path.name in message
        assert "\n" not in message.strip()
        return number, len(reader.skipped.rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
@QUICK
@given(content=st.binary(max_size=200))
def test_bytes(suffix: str, content: bytes):
    read(f"rows{suffix}", content)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt", ".run"])
@QUICK
@given(lines=LINES)
def test_lines(suffix: str, lines: list[str]):
    read(f"rows{suffix}", "\n".join(lines).encode())


@QUICK
@given(rows=ROWS)
def test_rows(rows: list[dict[str, object]]):
    content = "\n".join(map(json.dumps, rows)).encode()
    read("rows.jsonl", content)
    number, skipped = read("rows.jsonl", content, "skip")
    assert number == -1 or number + skipped == len(rows)


@QUICK
@given(lines=LINES)
def test_lines_are_read_or_noted(lines: list[str]):
    good = [json.dumps({"query": "q", "positive": "p"})] * 2
    content = [*good, *(line for line in lines if line.strip())]
    number, skipped = read("rows.jsonl", "\n".join(content).encode(), "skip")
    assert number + skipped == len(content)
    assert number >= 2
