import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.store import lists as module
from data.store.lists import StoredLists, StoredValues, write_lists, write_values
from data.store.texts import write_texts

DOCUMENTS = {f"d{i}": f"text {i}" for i in range(9)}
QUERIES = {f"q{i}": f"query {i}" for i in range(5)}
CASES: dict[str, Any] = {
    "judgements": ({"q3": {"d8": 2, "d0": 0}, "q0": {}, "q1": {"d1": -1}}, dict),
    "labels": ({"q0": {"d1": 0.25, "d2": 1.0}}, dict),
    "candidates": ({"q1": [("d1", 3.5), ("d0", math.inf)], "q2": [], "q0": [("d5", 0.1)]}, list),
    "nothing": ({}, dict),
    "only empty": ({"q1": [], "q0": []}, list),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("queries_are_stored", [True, False])
def test_stored_lists_are_those_that_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, queries_are_stored: bool
):
    monkeypatch.setattr(module, "AT_ONCE", 2)
    expected, kind = CASES[case]
    documents = write_texts(tmp_path / "documents", DOCUMENTS.items())
    queries = write_texts(tmp_path / "queries", QUERIES.items()) if queries_are_stored else QUERIES
    write_lists(tmp_path / "lists", expected, queries, documents)
    stored = StoredLists(tmp_path / "lists", queries, documents, kind)
    assert dict(stored) == expected
    assert list(stored) == list(expected)
    assert len(stored) == len(expected)
    assert [type(value) for query in stored for value in dict(stored[query]).values()] == [
        type(value) for listed in expected.values() for value in dict(listed).values()
    ]
    assert "q4" not in stored
    assert stored.get("q4") is None
    assert stored.get("absent", 7) == 7


def test_scores_that_are_unknown_stay_unknown(tmp_path: Path):
    documents = write_texts(tmp_path / "documents", DOCUMENTS.items())
    write_lists(tmp_path / "lists", {"q0": [("d0", math.nan), ("d1", 2.0)]}, QUERIES, documents)
    [(_, first), second] = StoredLists[list[tuple[str, float]]](tmp_path / "lists", QUERIES, documents, list)["q0"]
    assert np.isnan(first)
    assert second == ("d1", 2.0)


@pytest.mark.parametrize("queries_are_stored", [True, False])
def test_stored_values_are_those_that_were_written(tmp_path: Path, queries_are_stored: bool):
    queries = write_texts(tmp_path / "queries", QUERIES.items()) if queries_are_stored else QUERIES
    values = {"q4": 0.1, "q0": 2.0, "q2": 3.5}
    write_values(tmp_path / "values", values, queries)
    stored = StoredValues(tmp_path / "values", queries)
    assert dict(stored) == values
    assert len(stored) == 3
    assert [stored.get(query, 1.0) for query in ("q1", "q3", "absent")] == [1.0, 1.0, 1.0]
