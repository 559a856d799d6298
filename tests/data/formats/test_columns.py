"""What a row of a data file may not be: each mistake named with file, line and column."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from data.formats.layouts import LAYOUTS, NAMES, Layout
from data.formats.records import read_records


def read(*rows: Mapping[str, Any], columns: Mapping[str, str] | None = None, ignored: tuple[str, ...] = ()) -> list:
    return list(read_records(((f"x.jsonl:{n}", row) for n, row in enumerate(rows, start=1)), columns or {}, ignored))


PAIR = {"query": "q", "document": "x"}
TRIPLET = {"query": "q", "positive": "x", "negative": "y"}
GRADED = {"query": "q", "docs": ["x", "y"], "labels": [1, 0]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"title": "q", "body": "x"},
            "unknown columns 'title', 'body': say what each is (data.columns.FIELD=title, FIELD",
        ),
        (
            {"how do I boil an egg": "how do I boil rice", "For six minutes.": "For twelve minutes."},
            "unknown columns 'how do I boil an egg', 'For six minutes.' (texts, not names: is a first line with "
            "the names missing, such as query and positive?): say what each is",
        ),
        (
            {"query": "q", "anchor": "r", "positive": "x"},
            "columns query and anchor all name the query: leave all but one out",
        ),
        ({"query": "q", "document": "x", "positive": "y"}, "columns query, document, positive form no known layout;"),
        ({"query": "q", "positive": "x", "label": 1}, "columns query, positive, label form no known layout;"),
        ({"document": "x", "label": 1}, "columns document, label form no known layout;"),
        ({"prompt": "q", "chosen": "x"}, "columns prompt, chosen form no known layout;"),
        ({**PAIR, "document": None}, "no value in column 'document' (document)"),
        ({**PAIR, "document": 7}, "'document' must be a text, got int (a number? write it in quotes)"),
        ({**PAIR, "document": ["x"]}, "'document' must be a text, got list"),
        ({**PAIR, "query": " "}, "'query' is empty"),
        ({**PAIR, "query": "\ud800"}, "'query' is not valid Unicode (lone surrogate at character 1)"),
        ({**PAIR, "label": "good"}, "'label' must be a number, got 'good'"),
        ({**PAIR, "label": None}, "no value in column 'label' (label)"),
        ({**PAIR, "label": float("nan")}, "no value in column 'label' (label)"),
        ({**PAIR, "label": -1}, "'label' is -1: labels start at 0 (not relevant); shift them"),
        ({**PAIR, "label": [1, 0]}, "'label' has 2 numbers for 1 documents"),
        ({**PAIR, "weight": -1}, "'weight' must be at least 0, got -1"),
        ({**PAIR, "prompt": 3}, "'prompt' must be a text, got int"),
        ({**TRIPLET, "positive": [], "negative": []}, "no value in column 'positive' (positive)"),
        ({**TRIPLET, "negative": [{"id": 3}]}, "'negative' must be a text, got dict"),
        ({**TRIPLET, "score": [1, 2, 3]}, "'score' has 3 numbers for 2 documents"),
        ({**TRIPLET, "pos_scores": [1]}, "no negative_scores: either all documents have a score or none has"),
        ({**TRIPLET, "neg_scores": [1]}, "no positive_scores: either all documents have a score or none has"),
        ({**GRADED, "labels": [1]}, "'labels' has 1 numbers for 2 documents"),
        ({**GRADED, "docs": []}, "no value in column 'docs' (documents)"),
        ({"query": "q", "docs": ["x"]}, "the documents have neither labels nor scores: add a column of either name"),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_its_place(row: Mapping[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^x.jsonl:1: {re.escape(message)}") as caught:
        read(row)
    assert "\n" not in str(caught.value)


def test_every_message_about_columns_lists_the_layouts():
    for row in ({"title": "q"}, {"document": "x"}):
        with pytest.raises(ValueError, match=re.escape("; ".join(LAYOUTS))):
            read(row)


def test_own_names_are_mapped_and_others_ignored():
    row = {"title": "q", "body": "x", "language": "en"}
    record = read(row, columns={"query": "title", "positive": "body"}, ignored=("language",))[0]
    assert (record.kind, record.query, record.documents) == ("tuples", "q", ["x"])
    swapped = read({"query": "x", "answer": "q"}, columns={"query": "answer", "positive": "query"})[0]
    assert (swapped.query, swapped.documents) == ("q", ["x"])
    with pytest.raises(ValueError, match=r"form no known layout \(data.columns.query=title is not there\); data"):
        read({"positive": "x"}, columns={"query": "title"})


def test_a_misspelt_name_of_a_column_is_named():
    with pytest.raises(ValueError, match=r"unknown column 'title' \(data.columns.query=titel is not there\): say what"):
        read({"title": "q", "answer": "x"}, columns={"query": "titel"})
    with pytest.raises(ValueError, match=r"^data.columns.query=foo is no column of x.jsonl:1: columns are query, docu"):
        read(PAIR, columns={"query": "foo"})
    with pytest.raises(ValueError, match=r"^data.ignore=lang is no column of x.jsonl:2: columns are query, document"):
        read(PAIR, PAIR, ignored=("lang",))


def test_rows_may_differ():
    """Numbered negatives in their own order, optional columns in some rows, another layout in the next."""
    numbered = {"query": "q", "positive": "x", **{f"negative_{i}": str(i) for i in (10, 9, 1)}, "negative_2": None}
    records = read(numbered, {**PAIR, "weight": 2}, {**PAIR, "label": 0, "id": 7}, {**GRADED, "prompt": "p"})
    assert [record.documents for record in records] == [["x", "1", "9", "10"], ["x"], ["x"], ["x", "y"]]
    assert [record.weight for record in records] == [1, 2, 1, 1]
    assert [record.prompt for record in records] == [None, None, None, "p"]
    assert [record.labels for record in records] == [[1, 0, 0, 0], [1], [0], [1, 0]]
    assert [record.labelled for record in records] == [False, False, True, True]


@pytest.mark.parametrize("names", [("answer", "question"), ("question", "answer")])
def test_the_order_of_columns_says_nothing(names: tuple[str, str]):
    layout = Layout.recognise("x", names, {})
    assert (layout.columns["query"], layout.columns["positive"]) == (["question"], ["answer"])


def test_a_name_means_one_field():
    names = [name for several in NAMES.values() for name in several]
    assert len(names) == len(set(names))
