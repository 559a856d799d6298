import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from data import candidates as module
from data.candidates import BM25Candidates, ListedCandidates, RunFileCandidates, bm25_options_of
from data.formats.beir import BEIRConfig

LISTS = {"q1": [], "q2": ["a"], "q3": ["c"]}
DOCUMENTS = {"a": "wing flutter", "b": "heat transfer", "c": "jet nozzle"}
OTHER_OPTIONS = {"k1": 1.2, "language": "german", "tokenizer": "words"}
QUERIES = {"train": {"q1": "heat", "q2": "wing"}, "test": {"q3": "nozzle"}}


def test_bm25_per_split_and_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = BM25Candidates(depth=2)
    found = config.build(DOCUMENTS, QUERIES, tmp_path)
    assert {split: {query: ranked[0][0] for query, ranked in runs.items()} for split, runs in found.items()} == {
        "train": {"q1": "b", "q2": "a"},
        "test": {"q3": "c"},
    }
    assert all(len(ranked) == 1 for runs in found.values() for ranked in runs.values())  # the others score 0
    calls: list[int] = []
    monkeypatch.setattr(module, "bm25_top", lambda *a, **k: calls.append(1))
    assert config.build(DOCUMENTS, QUERIES, tmp_path) == found
    assert not calls


def test_a_broken_cache_is_named(tmp_path: Path):
    BM25Candidates(depth=2).build(DOCUMENTS, QUERIES, tmp_path)
    [file] = (tmp_path / "candidates").glob("*.npz")
    for content in (file.read_bytes()[:100], b"", b"x" * 100):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file} is broken \(.*\): remove it, and it is made again"):
            BM25Candidates(depth=2).build(DOCUMENTS, QUERIES, tmp_path)


def test_listed_candidates_fall_back_on_a_bm25_of_their_own_options(tmp_path: Path):
    listed = ListedCandidates(depth=2, k1=1.2, b=0.3, language="german", tokenizer="words")
    bm25 = BM25Candidates(depth=2, k1=1.2, b=0.3, language="german", tokenizer="words")
    assert bm25_options_of(listed) == bm25_options_of(bm25) == bm25
    assert bm25_options_of(RunFileCandidates("x.run")) is None
    assert listed.build(DOCUMENTS, QUERIES, tmp_path) == bm25.build(DOCUMENTS, QUERIES, tmp_path)
    with pytest.raises(ValueError, match=r"^data.candidates.depth=0 must be at least 1"):
        ListedCandidates(depth=0)


@pytest.mark.parametrize("change", ["documents", "queries", "k1", "language", "tokenizer", "left out"])
def test_bm25_is_not_taken_from_another_cache(tmp_path: Path, change: str):
    BM25Candidates(depth=2).build(DOCUMENTS, QUERIES, tmp_path)
    documents = {**DOCUMENTS, "a": "heat heat"} if change == "documents" else DOCUMENTS
    queries = {"train": {"q1": "jet"}} if change == "queries" else QUERIES
    options = {name: value for name, value in OTHER_OPTIONS.items() if name == change}
    left_out = {"q1": {"b"}} if change == "left out" else {}
    BM25Candidates(depth=2, **options).build(documents, queries, tmp_path, left_out)
    assert len(list((tmp_path / "candidates").glob("*.npz"))) == 2


def test_bm25_is_made_again_by_other_code_or_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def number_of_caches() -> int:
        BM25Candidates(depth=2).build(DOCUMENTS, QUERIES, tmp_path)
        return len(list((tmp_path / "candidates").glob("*.npz")))

    assert number_of_caches() == 1
    for number, library in enumerate(("bm25s", "PyStemmer"), start=2):
        with monkeypatch.context() as patch:
            patch.setattr(module, "version", lambda name, other=library: "0" if name == other else version(name))
            assert number_of_caches() == number
    for name in module.CODE:
        (tmp_path / name).write_text(Path(module.__file__).with_name(name).read_text())
    monkeypatch.setattr(module, "__file__", str(tmp_path / "candidates.py"))
    assert number_of_caches() == 3
    for number, name in enumerate(module.CODE, start=4):
        (tmp_path / name).write_text("# changed")
        assert number_of_caches() == number


@pytest.mark.parametrize("options", [{"depth": 0}, {"k1": -1.0}, {"b": 1.1}, {"language": "germn"}])
def test_bm25_options_are_checked(options: dict):
    with pytest.raises(ValueError, match=f"data.candidates.{next(iter(options))}={next(iter(options.values()))}"):
        BM25Candidates(**options)


def run_file(path: Path, *rows: tuple[str, str, float]) -> RunFileCandidates:
    path.write_text("".join(f"{query} Q0 {document} 1 {score} tag\n" for query, document, score in rows))
    return RunFileCandidates(str(path))


def test_a_run_is_ranked_by_score(tmp_path: Path):
    rows = [("q1", "a", 1.0), ("q1", "b", 2.0), ("q1", "c", 1.0), ("q2", "c", 0.0), ("q3", "c", -1.0), ("q9", "a", 1.0)]
    found = run_file(tmp_path / "x.run", *rows).build(DOCUMENTS, QUERIES, tmp_path)
    assert found["train"]["q1"] == [("b", 2.0), ("a", 1.0), ("c", 1.0)]
    assert found["test"] == {"q3": [("c", -1.0)]}


def test_a_query_without_candidates_is_an_error(tmp_path: Path):
    config = run_file(tmp_path / "x.run", ("q1", "a", 1.0), ("q2", "unknown", 1.0), ("q3", "a", 1.0))
    message = (
        f"{tmp_path / 'x.run'}: no candidates of the corpus for query 'q2' (1 of the 2 train queries have none); "
        "add them to the file (a .jsonl may have empty lists: launch/mine.py writes them with output=NAME.jsonl) "
        "or use data/candidates=bm25"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        config.build(DOCUMENTS, QUERIES, tmp_path)


def test_a_query_may_have_an_empty_list(tmp_path: Path):
    rows = [{"query_id": query, "document_ids": ids, "scores": [1.0] * len(ids)} for query, ids in LISTS.items()]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = RunFileCandidates(str(tmp_path / "x.jsonl")).build(DOCUMENTS, QUERIES, tmp_path, {"q3": {"c"}})
    assert found == {"train": {"q1": [], "q2": [("a", 1.0)]}, "test": {"q3": []}}


def test_queries_without_a_word_of_the_corpus_have_no_candidates(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    queries = {"train": {"q1": "heat", "q2": "zzz"}, "dev": {"q4": "the"}, "test": {"q3": "nozzle"}}
    for _ in range(2):  # made, then read from the cache
        found = BM25Candidates(depth=2).build(DOCUMENTS, queries, tmp_path, {"q3": {"c"}})
        assert {query: len(ranked) for split in found.values() for query, ranked in split.items()} == {
            "q1": 1,
            "q2": 0,
            "q4": 0,
            "q3": 0,
        }
    assert "BM25: 3 of 4 queries share no word with a document: no candidates" in caplog.text
    assert BM25Candidates().build(DOCUMENTS, {"test": {}}, tmp_path) == {"test": {}}


def test_a_run_of_one_split_leaves_the_others_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = run_file(tmp_path / "x.run", ("q3", "a", 1.0))
    with caplog.at_level(logging.WARNING):
        assert list(config.build(DOCUMENTS, QUERIES, tmp_path)) == ["test"]
    assert "no candidates for any train query: left out" in caplog.text


def test_bm25_may_rank_the_other_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run = run_file(tmp_path / "x.run", ("q1", "a", 1.0), ("q2", "b", 1.0))
    found = replace(run, others="bm25").build(DOCUMENTS, QUERIES, tmp_path)
    assert list(found) == ["train", "test"]
    assert found["train"] == {"q1": [("a", 1.0)], "q2": [("b", 1.0)]}
    assert dict(found["test"]) == dict(BM25Candidates().build(DOCUMENTS, {"test": QUERIES["test"]}, tmp_path)["test"])
    assert "left out" not in caplog.text
    with pytest.raises(ValueError, match=r"data.candidates.others=dense is not a choice: valid: none, bm25"):
        RunFileCandidates("x.run", others="dense")


def test_a_run_of_something_else_is_an_error(tmp_path: Path):
    config = run_file(tmp_path / "x.run", ("other", "a", 1.0))
    with pytest.raises(
        ValueError, match="no candidates for any query of the data; does it belong to another collection"
    ):
        config.build(DOCUMENTS, QUERIES, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data.candidates.path=gone.run: no such file; give a TREC run"):
        RunFileCandidates("gone.run").build(DOCUMENTS, QUERIES, tmp_path)


def test_a_collection_over_a_run_file(tiny: Path, tmp_path: Path, write_beir: Callable[..., Path]):
    rows = [(f"q{i}", f"d{j}", float(-j)) for i in range(20) for j in range(5)]
    config = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path), candidates=run_file(tmp_path / "x.run", *rows))
    assert config.build().split("test").candidates["q15"][:2] == [("d0", 0.0), ("d1", -1.0)]


def test_a_split_without_candidates_is_not_called_absent(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [(f"q{i}", f"d{j}", float(-j)) for i in range(14, 20) for j in range(5)]
    config = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path), candidates=run_file(tmp_path / "x.run", *rows))
    collection = config.build()
    assert len(collection.split("test").queries) == 6
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'x.run'}: no candidates for any train or dev query: left out"
    ]
    with pytest.raises(ValueError, match=r"data tiny: data.candidates.path has no candidates for the train queries"):
        collection.split("train")
