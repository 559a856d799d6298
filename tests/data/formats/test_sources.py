"""Which files are train, dev and test, which hold the texts of ids; data sets of the hub; swapped questions."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.formats.file import FileConfig

ROWS = [{"question": f"what is number {n}?", "answer": f"it is the number {n}, as everybody knows"} for n in range(40)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def queries(path: Path | str, **options: Any) -> dict[str, int]:
    cache = {"cache_dir": options.pop("cache_dir", "/nonexistent")}
    splits = FileConfig(path=str(path), **cache, **options).build().splits
    return {name: len(split.queries) for name, split in splits.items()}


def test_the_names_of_a_folder_say_the_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "set"
    write(folder / "train-00000-of-00002.jsonl", ROWS[:10])
    write(folder / "train-00001-of-00002.jsonl", ROWS[10:20])
    write(folder / "validation-00000-of-00001.jsonl", ROWS[20:25])
    write(folder / "test-00000-of-00001.jsonl", ROWS[25:])
    with caplog.at_level(logging.WARNING):
        assert queries(folder, cache_dir=str(tmp_path)) == {"train": 20, "dev": 5, "test": 15}
    assert f"data.path={folder}: test-00000-of-00001.jsonl is test" in caplog.text
    own = write(tmp_path / "mine.jsonl", ROWS[30:33])
    assert queries(folder, cache_dir=str(tmp_path), test_path=str(own)) == {"train": 20, "dev": 5, "test": 3}
    assert queries(f"{folder}/train*", cache_dir=str(tmp_path))["train"] < 20  # a glob: all of it is train


def test_files_of_a_folder_without_train_are_all_train(tmp_path: Path):
    write(tmp_path / "set" / "test.jsonl", ROWS[:20])
    write(tmp_path / "set" / "more.jsonl", ROWS[20:])
    options = {"cache_dir": str(tmp_path), "dev_fraction": 0.0, "test_fraction": 0.0}
    assert queries(tmp_path / "set", **options) == {"train": 40}


def test_saved_splits_of_datasets(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from datasets import Dataset, DatasetDict

    parts = {"train": ROWS[:20], "validation": ROWS[20:30], "test": ROWS[30:], "unused": ROWS[:1]}
    DatasetDict({name: Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(str(tmp_path / "saved"))
    with caplog.at_level(logging.WARNING):
        assert queries(tmp_path / "saved", cache_dir=str(tmp_path)) == {"train": 20, "dev": 10, "test": 10}
    assert "train is train, validation is dev, test is test; not read: unused" in caplog.text
    DatasetDict({name: Dataset.from_list(ROWS) for name in ("a", "b")}).save_to_disk(str(tmp_path / "named"))
    with pytest.raises(ValueError, match=r"has the splits a, b, and none is called train: data.path=.*/named/a$"):
        queries(tmp_path / "named")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with two subsets, as `datasets.load_dataset` reads it from a folder, and the hub's cache aside."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    write(folder / "pairs" / "train.jsonl", ROWS[:30])
    write(folder / "pairs" / "test.jsonl", ROWS[30:])
    write(folder / "other" / "train.jsonl", ROWS[:12])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}.jsonl\n" for split in splits)
        for name, splits in (("pairs", ("train", "test")), ("other", ("train",)))
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


def test_subsets_and_splits_of_the_hub(hub: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    options = {"cache_dir": str(tmp_path), "dev_fraction": 0.0}
    with caplog.at_level(logging.WARNING):
        assert queries(hub, subset="pairs", **options) == {"train": 30, "test": 10}
    assert f"data.path={hub}: {hub} pairs: train is train, test is test" in caplog.text
    assert queries(hub, subset="other", test_fraction=0.0, **options) == {"train": 12}
    assert queries(hub, subset="pairs", hub_split="test", test_fraction=0.0, **options) == {"train": 10}
    with pytest.raises(ValueError, match=r"^data.hub_split=dev is no split of .*: it has train, test$"):
        queries(hub, subset="pairs", hub_split="dev")
    with pytest.raises(ValueError, match=r"^data.path=.* data.subset=nope is neither a file or folder nor a data set"):
        queries(hub, subset="nope")


def test_a_hub_id_with_texts_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As PyLate publishes its data: train, queries and documents are subsets."""
    from datasets import Dataset, DatasetDict

    parts = {
        "default": [{"query_id": n, "document_ids": [n, n + 1], "scores": [1.0, 0.5]} for n in range(20)],
        "queries": [{"query_id": n, "text": f"what is {n}"} for n in range(20)],
        "documents": [{"document_id": n, "text": f"it is {n}"} for n in range(21)],
    }

    def load(path: str, subset: str | None = None) -> DatasetDict:
        assert path == "owner/lists"
        if (subset or "default") not in parts:
            raise ValueError(f"BuilderConfig {subset!r} not found")
        return DatasetDict({"train": Dataset.from_list(parts[subset or "default"])})

    monkeypatch.setattr("datasets.load_dataset", load)
    records = list(FileConfig(path="owner/lists").records())
    assert [(r.query, r.documents, r.scores) for r in records] == [
        (f"what is {n}", [f"it is {n}", f"it is {n + 1}"], [1.0, 0.5]) for n in range(20)
    ]
    parts["default"][3]["document_ids"] = [3, 99]
    with pytest.raises(
        ValueError, match=r"^owner/lists train:4: 'document_ids' names '99', which is no id of owner/lists"
    ):
        list(FileConfig(path="owner/lists").records())


def by_id(folder: Path) -> Path:
    rows = [{"query": row["question"], "positive_id": n} for n, row in enumerate(ROWS)]
    return write(folder / "train.jsonl", rows)


def texts(*, kind: str = "text", first: int = 0) -> list[dict[str, Any]]:
    return [{"id": n, kind: row["answer"]} for n, row in enumerate(ROWS)][first:]


@pytest.mark.parametrize(
    "place", ["corpus.jsonl", "strange name.jsonl", "documents/part-0.jsonl", "corpus/a.jsonl", "../collection.jsonl"]
)
def test_texts_are_found_beside_the_file(place: str, tmp_path: Path):
    file = by_id(tmp_path / "set" / "inner")
    write(file.parent / place, texts())
    write(file.parent / "notes.jsonl", [{"note": "nothing of it"}])
    records = list(FileConfig(path=str(file)).records())
    assert [record.documents for record in records] == [[row["answer"]] for row in ROWS]
    options = FileConfig(path=str(file)).places()
    assert [found.resolve() for found in options["corpus_path"].values()] == [(file.parent / place).resolve()]


@pytest.mark.parametrize("place", ["ablation.json", "../ablation.json"])
def test_other_files_beside_the_file_are_no_texts(place: str, tmp_path: Path):
    file = by_id(tmp_path / "set" / "inner")
    write(file.parent / "corpus.jsonl", texts())
    (file.parent / place).write_text(json.dumps({"configurations": [{"name": "a"}], "jobs": [{"seed": 1}]}))
    assert [record.documents for record in FileConfig(path=str(file)).records()] == [[row["answer"]] for row in ROWS]


def test_a_folder_that_may_not_be_listed_has_no_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = by_id(tmp_path / "home" / "me")
    write(file.parent / "corpus.jsonl", texts())
    iterdir = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:
        if folder == tmp_path / "home":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert [record.documents for record in FileConfig(path=str(file)).records()] == [[row["answer"]] for row in ROWS]


def test_a_broken_file_of_texts_is_named(tmp_path: Path):
    (by_id(tmp_path / "set").parent / "corpus.json").write_text('{"a": [{"b": 1}], "c": [{"d": 1}]}')
    with pytest.raises(ValueError, match=r"corpus.json: it holds rows under a and c"):
        list(FileConfig(path=str(tmp_path / "set" / "train.jsonl")).records())


def test_texts_in_several_files_and_by_option(tmp_path: Path):
    file = by_id(tmp_path / "set")
    write(tmp_path / "far" / "a.jsonl", texts()[:20])
    write(tmp_path / "far" / "b.jsonl", texts(first=20))
    with pytest.raises(ValueError, match=r"train.jsonl:1: 'positive_id' names documents by id, and no file beside it"):
        list(FileConfig(path=str(file)).records())
    options = FileConfig(path=str(file), corpus_path=str(tmp_path / "far"))
    assert len(list(options.records())) == 40
    assert set(options.places()["corpus_path"]) == {"a.jsonl", "b.jsonl"}
    own = [{"asks": row["question"], "number": n} for n, row in enumerate(ROWS)]
    mapped = FileConfig(
        path=str(write(tmp_path / "own.jsonl", own)),
        corpus_path=str(tmp_path / "far"),
        columns={"query": "asks", "positive_ids": "number"},
    )
    assert [(r.query, r.documents[0]) for r in mapped.records()] == [(r["question"], r["answer"]) for r in ROWS]


def test_a_run_beside_judgements_has_their_labels(tmp_path: Path):
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "text": f"text {n}"} for n in range(9)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)])
    (tmp_path / "qrels.train.txt").write_text("".join(f"q{n} 0 d{n} 2\n" for n in range(3)))
    (tmp_path / "run.train.trec").write_text(
        "".join(f"q{n} Q0 d{n + k} {k} {-k} x\n" for n in range(3) for k in (0, 4))
    )
    options = {"cache_dir": str(tmp_path), "dev_fraction": 0.0, "test_fraction": 0.0}
    data = FileConfig(path=str(tmp_path), **options).build()
    judged = {
        data.splits["train"].queries[query]: {data.documents[d]: label for d, label in labels.items()}
        for query, labels in data.splits["train"].labels.items()
    }
    assert judged == {f"query {n}": {f"text {n}": 2, f"text {n + 4}": 0} for n in range(3)}


def test_swapped_question_and_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    swapped = {"columns": {"query": "answer", "positive": "question"}}
    path = write(tmp_path / "rows.jsonl", ROWS)
    with caplog.at_level(logging.WARNING):
        FileConfig(path=str(path), cache_dir=str(tmp_path), **swapped).build()
    assert "may be swapped (data.columns takes 'answer' as the query and 'question' as the document)" in caplog.text
    caplog.clear()
    renamed = [{"query": row["answer"], "positive": row["question"]} for row in ROWS]
    with caplog.at_level(logging.WARNING):
        FileConfig(path=str(write(path, renamed)), cache_dir=str(tmp_path)).build()
    assert "may be swapped (100% of the documents are questions, 0% of the queries, which are longer)" in caplog.text


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("what is {n}?", "it is {n}, which is more than {n} - 1, as everybody knows"),  # a question and its answer
        ("what is {n}?", "is it {n}?"),  # pairs of questions
        ("{n}", "a long document about {n} that ends in a question: is it not?"),  # key words
        ("a long argument about {n}, and more of it, and more of it", "{n}"),  # a text and its label
        ("a long text that asks in the end: what is {n}?", "is it {n}?"),
    ],
)
def test_other_data_are_not_called_swapped(asked: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"query": asked.format(n=n), "positive": told.format(n=n)} for n in range(40)]
    with caplog.at_level(logging.WARNING):
        FileConfig(path=str(write(tmp_path / "rows.jsonl", rows)), cache_dir=str(tmp_path)).build()
    assert "swapped" not in caplog.text


def test_a_full_disk_for_the_texts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "corpus.jsonl", texts())
    database = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: database(f"file:{tmp_path}/none?mode=ro", uri=True))
    with pytest.raises(OSError, match=r"the texts of .*corpus.jsonl cannot be kept in a temporary database \(.*TMPDIR"):
        list(FileConfig(path=str(by_id(tmp_path))).records())
