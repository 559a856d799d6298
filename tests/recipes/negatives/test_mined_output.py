"""Every shape of the output is read by data=file (a run by data/candidates=run) with the same labels."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.candidates import NoCandidates, RunFileCandidates
from data.collection import Collection, Split
from data.formats.file import FileConfig
from inference.mine import Selection
from inference.mine_options import MineOptions
from inference.mining_audit import MinedQuery
from recipes.negatives.corpus import MiningCorpus
from recipes.negatives.mined_output import MinedRows, MinedWriter, written_at_the_end
from recipes.negatives.rows import shortest

DOCUMENTS = {f"d{i}": f"document number {i}" for i in range(8)}
QUERIES = {"q1": "first query", "q2": "second query", "q3": "third query", "q4": "fourth query"}
QRELS = {"q1": {"d0": 2, "d9": 0, "d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1}, "q4": {"d0": 0}}


def selection(rows: list[int], scores: list[float]) -> Selection:
    ranks = np.arange(1, len(rows) + 1)
    arrays = (np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float32), ranks)
    return Selection(*arrays, Counter(), 0, Counter(), np.empty(0, dtype=np.int64))


def mined() -> list[MinedQuery]:
    """q1 has two relevant documents, q2 one slot empty, q3 no negative, q4 nothing relevant."""

    def query(number: int, relevant: list[int], scores: list[float], chosen: Selection | None, found=()) -> MinedQuery:
        arrays = np.array(relevant, dtype=np.int64), np.array(scores, dtype=np.float32)
        return MinedQuery(number, f"q{number + 1}", *arrays, chosen, found=found)

    return [
        query(0, [0, 1], [0.9, 0.7], selection([4, 5], [0.6, 0.1]), found=(1,)),
        query(1, [2], [0.8], selection([6], [0.3])),
        query(2, [3], [0.5], selection([], [])),
        query(3, [], [], None),
    ]


def rows_of(prompts: dict[str, str] | None = None, **options) -> MinedRows:
    split = Split(QUERIES, QRELS, {query: [] for query in QUERIES}, prompts=prompts or {})
    collection = Collection("c", DOCUMENTS, {"train": split}, "hash")
    corpus = MiningCorpus(DOCUMENTS, {name: row for row, name in enumerate(DOCUMENTS)})
    return MinedRows(collection, split, corpus, MineOptions(num_negatives=2, **options))


def written(folder: Path, name: str = "mined.jsonl", **options) -> tuple[Path, MinedWriter]:
    path = folder / name
    writer = MinedWriter(rows_of(**options), path)
    with written_at_the_end(path) as file:
        for query in mined():
            writer.write(file, query)
    assert [each.name for each in folder.iterdir()] == [name]
    return path, writer


def judged(path: Path, **options) -> dict[str, dict[str, float]]:
    """{query: {document: label}} of the training lists that data=file reads."""
    config = FileConfig(path=str(path), test_fraction=0, dev_fraction=0, candidates=NoCandidates(), **options)
    collection = config.build()
    split = collection.splits["train"]
    return {
        split.queries[query]: {collection.documents[name]: label for name, label in own.items()}
        for query, own in split.judgements.items()
    }


WITHOUT_Q3 = {
    "first query": {"document number 0": 2, "document number 1": 1, "document number 4": 0, "document number 5": 0},
    "second query": {"document number 2": 1, "document number 6": 0},
}
BINARY = {query: {name: min(label, 1) for name, label in own.items()} for query, own in WITHOUT_Q3.items()}
FULL = {"first query": BINARY["first query"]}


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("content", ["texts", "ids"])
@pytest.mark.parametrize(
    ("output", "expected", "num_rows"),
    [("triplet", BINARY, 5), ("n_tuple", FULL, 2), ("labelled_pair", WITHOUT_Q3, 6), ("labelled_list", WITHOUT_Q3, 2)],
)
def test_every_shape_is_read_as_it_is(tmp_path, output, expected, num_rows, content, scores):
    folder = tmp_path / "mined"
    folder.mkdir()
    path, writer = written(folder, output=output, content=content, scores=scores)
    assert writer.num_rows == num_rows
    assert writer.rows.left_out == (1 if output == "n_tuple" else 0)
    options = {}
    if content == "ids":
        for name, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
            lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()]
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
            options[f"{name}_path"] = str(tmp_path / f"{name}.jsonl")
    assert judged(path, **options) == expected


def test_scores_stand_beside_the_documents(tmp_path):
    for output in ("triplet", "n_tuple", "labelled_pair", "labelled_list"):
        folder = tmp_path / output
        folder.mkdir()
        path, _ = written(folder, output=output, scores=True)
        config = FileConfig(path=str(path), test_fraction=0, dev_fraction=0)
        collection = config.build()
        split = collection.splits["train"]
        scores = {
            collection.documents[name]: score for query in split.queries for name, score in split.candidates[query]
        }
        expected = {"document number 0": 0.9, "document number 1": 0.7, "document number 4": 0.6}
        assert scores.items() >= expected.items(), output


def test_a_run_names_candidates(tmp_path):
    queries = {"train": {key: QUERIES[key] for key in ("q1", "q2", "q3", "q4")}}
    path, writer = written(tmp_path, output="run")
    found = RunFileCandidates(str(path)).build(DOCUMENTS, queries, tmp_path)["train"]
    assert found == {"q1": [("d4", 0.6), ("d5", 0.1)], "q2": [("d6", 0.3)], "q3": [], "q4": []}
    assert (writer.num_rows, writer.rows.left_out) == (4, 0)


def test_a_trec_run_has_no_line_of_a_query_without_a_negative(tmp_path):
    path, writer = written(tmp_path, "mined.trec", output="run", include_positives=True)
    assert path.read_text().splitlines() == [
        "q1 Q0 d1 1 0.7 mined",  # found by the search, unlike d0
        "q1 Q0 d4 2 0.6 mined",
        "q1 Q0 d5 3 0.1 mined",
        "q2 Q0 d6 1 0.3 mined",
    ]
    assert writer.rows.left_out == 2


def test_an_id_that_a_trec_run_cannot_hold_is_one_line_and_nothing_is_written(tmp_path):
    rows = rows_of(output="run")
    rows.ids = [name.replace("d4", "d 4") for name in rows.ids]
    path, message = tmp_path / "mined.trec", r"mined.trec: document id 'd 4' must not"
    with pytest.raises(ValueError, match=message), written_at_the_end(path) as file:
        MinedWriter(rows, path).write(file, mined()[0])
    assert list(tmp_path.iterdir()) == []


def test_prompts_and_weights_of_queries_are_kept():
    rows = rows_of(prompts={"q1": "ask: "}, output="labelled_list")
    rows.split = replace(rows.split, weights={"q1": 2.0})
    (row,) = rows.rows(mined()[0])
    assert (row["prompt"], row["weight"]) == ("ask: ", 2.0)
    (row,) = rows.rows(mined()[1])
    assert row.keys() == {"query", "documents", "labels"}


def test_scores_are_written_with_the_fewest_digits():
    assert json.dumps(shortest(np.float32(0.1))) == "0.1"
    assert np.float32(shortest(np.float32(1 / 3))) == np.float32(1 / 3)
