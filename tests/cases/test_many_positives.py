"""`data.lists.positives` is a maximum, and a list of two or more documents holds a negative if the query has one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from data.collection import Collection, Split
from data.formats.file import FileConfig
from data.sampling.list_options import ListOptions
from data.sampling.training_lists import TrainingLists
from launch.cli.compose import load

EPOCHS = range(20)


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> Mapping[str, list[list[int]]]:
        return {"input_ids": [[1]] * (len(documents) + 1)}


def relevant_and_others(data: Collection, list_size: int, options: ListOptions) -> list[tuple[int, int]]:
    lists = TrainingLists(data, Tokenizer(), list_size=list_size, seed=0, options=options)
    drawn = [(query, lists.sample(epoch, query)) for epoch in EPOCHS for query in lists.query_ids]
    counts = [sum(document in lists.relevant(query) for document in documents) for query, documents in drawn]
    assert all(len(set(documents)) == len(documents) <= list_size for _, documents in drawn)
    return [(count, len(documents) - count) for count, (_, documents) in zip(counts, drawn, strict=True)]


def collection(relevant: int, others: int, *, first: int = 100, grade: int = 1) -> Collection:
    """`first` documents are candidates, the relevant ones before the others."""
    documents = {f"d{i}": f"text {i}" for i in range(relevant + others)}
    judged = {f"d{i}": 1 + i % grade for i in range(relevant)}
    ranked = [(name, -float(i)) for i, name in enumerate(documents)][:first]
    return Collection("tiny", documents, {"train": Split({"q": "query"}, {"q": judged}, {"q": ranked})}, "hash")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Tuples of five positives and one negative."""
    made = [
        {"query": f"which {i}?", "pos": [f"answer {i} {k}" for k in range(5)], "neg": [f"no answer {i}"]}
        for i in range(30)
    ]
    file = tmp_path / "tuples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return file


@pytest.mark.parametrize("list_size", [2, 3, 4, 6, 8])
def test_the_default_lists_of_a_file_hold_the_negative(rows: Path, list_size: int):
    data = load(["data=file", f"data.path={rows}"]).data
    assert data.lists == FileConfig(path=str(rows)).lists
    counts = relevant_and_others(data.build(), list_size, data.lists)
    assert set(counts) == {(min(5, list_size - 1), 1)}


@pytest.mark.parametrize("positives", [1, 2, 3])
def test_a_number_is_a_maximum(rows: Path, positives: int):
    data = FileConfig(path=str(rows), lists=ListOptions(positives=positives, random_fraction=0.0, hard_depth=1000))
    for list_size in (2, 3, 4, 6):
        counts = relevant_and_others(data.build(), list_size, data.lists)
        assert set(counts) == {(min(positives, list_size - 1), 1)}


@pytest.mark.parametrize("choice", ["mixed", "hard", "graded", "listed"])
@pytest.mark.parametrize("list_size", [1, 2, 5, 8])
def test_relevant_candidates_do_not_take_the_place_of_all_negatives(choice: str, list_size: int):
    options = load(["data=beir", "data.path=x", f"data/lists={choice}"]).data.lists
    for relevant, others in ((5, 1), (5, 40), (40, 40), (40, 1)):  # 40: more than data.lists.hard_depth
        for first in (5, 100):
            if first == 5 and options.random_fraction == 0:
                continue  # none of the candidates is a negative
            counts = relevant_and_others(collection(relevant, others, first=first), list_size, options)
            assert all(found + other <= list_size and found >= 1 for found, other in counts)
            assert all(other >= (list_size > 1) for _, other in counts), (relevant, others, first)
            assert options.positives is None or {found for found, _ in counts} == {1}


def test_without_negatives_relevant_documents_have_their_places_up_to_the_limit():
    only = collection(6, 0)
    for positives, expected in ((1, 1), (2, 2), (4, 3), (None, 3)):
        options = ListOptions(positives=positives, random_fraction=0.0)
        assert set(relevant_and_others(only, 3, options)) == {(expected, 0)}


def test_a_limit_takes_the_best_grades_and_none_draws_all():
    data = collection(6, 30, grade=3)

    def grades(positives: int | None) -> set[float]:
        options = ListOptions(positives=positives)
        lists = TrainingLists(data, Tokenizer(), list_size=8, seed=0, options=options)
        return {float(label) for epoch in EPOCHS for label in lists[epoch, 0].labels}

    assert grades(1) == grades(2) == {0, 3}
    assert grades(None) == {0, 1, 2, 3}


def test_graded_lists_of_a_file_keep_all_their_grades(tmp_path: Path):
    made = [{"query": f"q {i}", "documents": list(f"abcd{i}"), "labels": [3, 2, 1, 0, 0]} for i in range(9)]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    data = FileConfig(path=str(tmp_path / "graded.jsonl"), dev_fraction=0.0, test_fraction=0.0)
    lists = TrainingLists(data.build(), Tokenizer(), list_size=8, seed=0, options=data.lists)
    assert all(sorted(lists[0, index].labels.tolist()) == [0, 0, 1, 2, 3] for index in range(len(lists)))


def test_a_limit_that_leaves_grades_out_is_said(caplog: pytest.LogCaptureFixture):
    def note(grade: int, positives: int | None) -> str:
        caplog.clear()
        data, options = collection(4, 4, grade=grade), ListOptions(positives=positives)
        TrainingLists(data, Tokenizer(), list_size=4, seed=0, options=options).note_unused_grades()
        return caplog.text

    assert "tiny: relevant documents have 2 grades; a list holds at most data.lists.positives=1" in note(2, 1)
    assert note(1, 1) == note(2, 4) == note(2, None) == ""
