"""The corpus that negatives come from: the data's own, or a file with the relevant documents after it."""

from __future__ import annotations

import json

import pytest

from data.collection import Collection, Split
from data.store.texts import StoredTexts
from recipes.negatives import corpus as module
from recipes.negatives.corpus import corpus_of


@pytest.fixture
def collection() -> Collection:
    split = Split({"q": "query", "p": "other"}, {"q": {"a": 1, "b": 0}, "p": {"c": 2, "a": 1}}, {"q": [], "p": []})
    return Collection("c", {"a": "text a", "b": "text b", "c": "text c"}, {"train": split}, "hash")


def test_the_data_are_the_corpus(collection, tmp_path):
    found = corpus_of(collection, "train", None, tmp_path)
    assert found.documents is collection.documents
    assert [found.row(name) for name in ("a", "c", "gone")] == [0, 2, None]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": "a", "title": "T", "text": "first"}, {"_id": "x", "text": "second"}, {"_id": "e", "text": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("stored_from", [1, 2**20])
@pytest.mark.parametrize("as_folder", [False, True])
def test_relevant_documents_follow_those_of_a_file(collection, file, tmp_path, monkeypatch, stored_from, as_folder):
    monkeypatch.setattr(module, "STORED_FROM", stored_from)
    path = str(tmp_path if as_folder else file)
    found = corpus_of(collection, "train", path, tmp_path / "cache")
    assert dict(found.documents.items()) == {
        "a": "T first",
        "x": "second",
        "relevant:a": "text a",
        "relevant:c": "text c",
    }
    assert isinstance(found.documents, StoredTexts) == (stored_from == 1)
    assert [found.row(name) for name in ("a", "b", "c")] == [2, None, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', r"document 2: duplicate id 'a' \(first at"),
        ('{"_id": "a", "text": ""}\n', "it has no document with a text"),
        ('{"_id": "a"}\n', r"corpus.jsonl:1.*text"),
    ],
)
def test_a_broken_corpus_is_one_line(collection, file, tmp_path, content, message):
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        corpus_of(collection, "train", str(file), tmp_path)


def test_a_corpus_that_is_not_there_is_named(collection, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine.corpus_path=gone: no such file or folder"):
        corpus_of(collection, "train", "gone", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no corpus.jsonl or corpus.jsonl.gz in"):
        corpus_of(collection, "train", str(tmp_path), tmp_path)
    (tmp_path / "x.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"mine.corpus_path=.*x.pdf: .pdf files are not read"):
        corpus_of(collection, "train", str(tmp_path / "x.pdf"), tmp_path)
