"""A query that is itself a document (ArguAna, Quora): no ranking holds its own document, and no list as a negative."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.candidates import RunFileCandidates
from data.collection import Collection
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.own_document import equal_documents, same_id_documents
from data.sampling.list_options import ListOptions
from data.sampling.training_lists import TrainingLists
from evaluation.metrics import Metrics, Run, measure
from launch.cli.compose import load
from recipes.evaluate.run import evaluate

THINGS = "ferry anchor compass harbour sextant beacon rudder galley lantern paddle schooner tugboat".split()  # noqa: SIM905


def _write(folder: Path, documents: Mapping[str, tuple[str, str]], queries: Mapping[str, str]) -> Path:
    """A BEIR folder in which the answer to query X is document X-reply. The first half is train, the rest is test."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in documents.items()]
    texts = [{"_id": name, "text": text} for name, text in queries.items()]
    for name, rows in (("corpus", corpus), ("queries", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    half = len(queries) // 2
    for split, names in (("train", list(queries)[:half]), ("test", list(queries)[half:])):
        rows = ["query-id\tcorpus-id\tscore", *(f"{name}\t{name}-reply\t1" for name in names)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    queries = {f"a{i}": f"Every boat needs a {thing}, said {thing} makers." for i, thing in enumerate(THINGS)}
    documents = {name: (f"About {name}", f"{text}\n") for name, text in queries.items()}
    replies = {f"a{i}-reply": ("", f"No boat ever needed a {thing} at all.") for i, thing in enumerate(THINGS)}
    return _write(tmp_path / "arguments", documents | replies, queries)


def _build(folder: Path, **options: object) -> Collection:
    return BEIRConfig(path=str(folder), cache_dir=str(folder / "cache"), **options).build()


def test_candidates_leave_the_query_out_and_one_line_says_so(folder: Path, caplog: pytest.LogCaptureFixture):
    collection = _build(folder)
    lines = [record.getMessage() for record in caplog.records if record.name == "data.own_document"]
    assert lines == [
        "arguments: 12 queries are each itself a document, which is left out of its ranking "
        "(data.rank_own_document=true ranks it)"
    ]
    ranked = _build(folder, rank_own_document=True)
    assert len({collection.fingerprint, ranked.fingerprint, _build(folder).fingerprint}) == 2
    for name, split in collection.splits.items():
        for query, found in split.candidates.items():
            assert found[0][0] == f"{query}-reply"
            assert split.own_documents[query] == {query} <= collection.excluded[query]
            assert query not in dict(found)
            assert ranked.splits[name].candidates[query][0][0] == query
    assert all(not split.own_documents for split in ranked.splits.values())
    assert ranked.excluded == collection.excluded  # ranked or not, it is no negative


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1]] * len(documents)}


@pytest.mark.parametrize("rank_own_document", [False, True])
def test_it_is_never_a_training_negative(folder: Path, rank_own_document: bool):
    collection = _build(folder, rank_own_document=rank_own_document)
    options = ListOptions(random_fraction=0.5)
    lists = TrainingLists(collection, Tokenizer(), list_size=24, seed=0, options=options)
    for epoch in range(5):
        for query in lists.query_ids:
            drawn = lists.sample(epoch, query)
            assert query not in drawn
            assert f"{query}-reply" in drawn


@pytest.mark.parametrize("command", ["bm25", "retrieval", "reranking"])
def test_every_evaluation_leaves_it_out(
    folder: Path, tmp_path: Path, tiny_bert_dir: Path, command: str, monkeypatch: pytest.MonkeyPatch
):
    model = ["model=bm25"] if command == "bm25" else ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}"]
    evaluation = "reranking" if command == "reranking" else "retrieval"
    arguments = ["data=beir", f"data.path={folder}", f"data.cache_dir={tmp_path}", *model, f"eval={evaluation}"]
    runs = []
    monkeypatch.setattr("recipes.evaluate.rankers.measure", _recorder(runs))
    monkeypatch.setattr(f"evaluation.{evaluation}_evaluator.measure", _recorder(runs))
    for option, ranks_it in (("false", False), ("true", True)):
        runs.clear()
        evaluate(load([*arguments, f"data.rank_own_document={option}"], "evaluate"))
        assert runs
        assert all(any(query in found for query, found in run.items()) == ranks_it for run in runs)


def _recorder(runs: list[Run]) -> Callable[..., Metrics]:

    def recorded(qrels, run, metrics):
        runs.append(run)
        return measure(qrels, run, metrics)

    return recorded


def test_the_depth_is_full_without_it(folder: Path, tmp_path: Path, tiny_bert_dir: Path):
    """The metric at the depth counts as many documents as if the query were no document."""
    base = ["data=beir", f"data.path={folder}", f"data.cache_dir={tmp_path}", "eval.depth=1"]
    base += ["eval.metric=recall@1", "eval.metrics=[recall@1]"]
    assert evaluate(load([*base, "model=bm25"], "evaluate")) == 1.0
    assert evaluate(load([*base, "model=bm25", "data.rank_own_document=true"], "evaluate")) == 0.0
    collection = BEIRConfig(path=str(folder), cache_dir=str(tmp_path)).build()
    assert {len(found) for found in collection.split("test").candidates.values()} == {len(collection.documents) - 1}


def test_run_files_lose_it_too(folder: Path, tmp_path: Path):
    names = [f"a{i}" for i in range(12)]
    rows = [f"{name} Q0 {doc} 1 {score} x" for name in names for doc, score in ((name, 9.0), (f"{name}-reply", 1.0))]
    (tmp_path / "x.run").write_text("\n".join(rows) + "\n")
    source = RunFileCandidates(str(tmp_path / "x.run"))
    for ranks_it in (False, True):
        test = _build(folder, candidates=source, rank_own_document=ranks_it).split("test")
        for query, found in test.candidates.items():
            assert [document for document, _ in found] == ([query] if ranks_it else []) + [f"{query}-reply"]
    (tmp_path / "own.run").write_text("\n".join(rows[::2]) + "\n")  # of each query only itself
    test = _build(folder, candidates=RunFileCandidates(str(tmp_path / "own.run"))).split("test")
    assert set(map(len, test.candidates.values())) == {0}


QUERY = "Why do boats float on water"


@pytest.mark.parametrize(
    ("identifier", "document", "judged", "is_own"),
    [
        ("x", QUERY, {}, True),
        ("x", f"  {QUERY.upper()}\n", {}, True),
        ("x", f"Boats and water {QUERY}", {}, True),  # title and text
        ("x", f"{QUERY} {'and so on ' * 40}", {}, True),  # the query is a title
        ("7", QUERY, {}, True),  # Quora's ids are numbers
        ("7", f"Floating {QUERY}", {}, True),
        ("7", f"{QUERY} {'and so on ' * 40}", {}, False),  # equal numbers by accident
        ("7", "An experiment on heat transfer", {}, False),
        ("x", "Another text", {}, False),
        ("x", "Why do boats float on waterfalls", {}, False),
        ("x", "", {}, False),
        ("x", QUERY, {"x": 1}, False),  # judged relevant: an answer
        ("x", QUERY, {"x": 0}, True),
        ("x", QUERY, {"other": 1}, True),
    ],
)
def test_which_document_is_the_query(identifier: str, document: str, judged: dict[str, int], is_own: bool):
    found = same_id_documents({identifier: document, "other": QUERY}, {identifier: QUERY}, {identifier: judged})
    assert found == ({identifier: {identifier}} if is_own else {})
    assert same_id_documents({"x": "y"}, {"x": ""}, {}) == {}


def test_numbers_that_are_equal_by_accident_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    queries = {str(i): thing for i, thing in enumerate(THINGS)}
    texts = {str(i): ("", f"The {thing} of a ship is kept dry in winter and oiled.") for i, thing in enumerate(THINGS)}
    replies = {f"{i}-reply": ("", f"A {thing} is cheap.") for i, thing in enumerate(THINGS)}
    collection = _build(_write(tmp_path / "numbers", texts | replies, queries))
    assert not any(record.name == "data.own_document" for record in caplog.records)
    assert not collection.excluded
    assert all(query in dict(found) for query, found in collection.split("test").candidates.items())


def test_data_without_ids_compare_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Pairs of equal questions: every question is also an answer of another row."""
    rows = [{"question": f"how old is the {thing}", "answer": f"what age has the {thing}"} for thing in THINGS]
    rows += [{"question": row["answer"], "answer": row["question"]} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"path": str(tmp_path / "pairs.jsonl"), "cache_dir": str(tmp_path), "test_fraction": 0.25}
    with caplog.at_level(logging.WARNING):
        collection = FileConfig(**options).build()
    assert "pairs.jsonl: 24 queries are each itself a document" in caplog.text
    for split in collection.splits.values():
        for query, text in split.queries.items():
            assert {collection.documents[own] for own in split.own_documents[query]} == {text}
            assert not split.own_documents[query] & dict(split.candidates[query]).keys()
            assert collection.excluded[query] == split.own_documents[query]
    ranked = FileConfig(**options, rank_own_document=True).build()
    found = ranked.split("test").candidates.items()
    assert all(ranked.documents[documents[0][0]] == ranked.split("test").queries[query] for query, documents in found)


def test_listed_documents_stay():
    documents, queries = {"d1": "a text", "d2": "A  text", "d3": "b"}, {"q1": "a text", "q2": "c", "q3": ""}
    assert equal_documents(documents, queries, {}) == {"q1": {"d1", "d2"}}
    assert equal_documents(documents, queries, {"q1": {"d1"}}) == {"q1": {"d2"}}
    assert equal_documents(documents, queries, {"q1": {"d1", "d2"}}) == {}
