"""Files of any size are grouped on disk: the collection is that of the memory, bit for bit."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.candidates import BM25Candidates, NoCandidates
from data.collection import Collection
from data.formats import grouping_on_disk
from data.formats.file import FileConfig
from data.sampling.list_options import ListOptions
from data.sampling.training_lists import TrainingLists
from data.store import build, lists, text_pool, texts
from data.store.texts import StoredTexts

Rows = list[dict[str, Any]]
SAID_OF_STORING = ("is large", "are opened from now on", "BM25: language")


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> Mapping[str, list[list[int]]]:
        return {"input_ids": [[len(query), *map(ord, text[:9])] for text in documents]}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows in every piece, so that small files have many of each."""
    for module, name, value in (
        (grouping_on_disk, "NUM_PARTS", 5),
        (grouping_on_disk, "ROWS_AT_ONCE", 7),
        (grouping_on_disk, "LISTS_AT_ONCE", 2),
        (lists, "AT_ONCE", 3),
        (texts, "PART_ROWS", 11),
        (build, "_build_apart", build.build_here),
    ):
        monkeypatch.setattr(module, name, value)


def text(rng: random.Random, what: str, count: int) -> str:
    """A text of few, so that they repeat; sometimes in another case or spacing."""
    found = f"{what} number {rng.randrange(count)}"
    return rng.choice([found] * 8 + [f" {found}\n", found.upper(), f"{found}  "])


def pairs(rng: random.Random) -> dict[str, Any]:
    return {"query": text(rng, "question", 40), "document": text(rng, rng.choice(["answer", "question"]), 60)}


def labelled(rng: random.Random) -> dict[str, Any]:
    row = pairs(rng)
    return row | {"label": len(row["document"].strip()) % 2 + ("question" in row["document"].lower())}


def degrees(rng: random.Random) -> dict[str, Any]:
    first, last = rng.randrange(30), rng.randrange(30)
    first, last = rng.choice([(first, last), (last, first)])
    return {"query": f"text {first}", "document": f"text {last}", "label": (first + last) % 7 / 2}


def triples(rng: random.Random) -> dict[str, Any]:
    return {
        "query": text(rng, "question", 30),
        "positive": text(rng, "answer", 30),
        "negative": [text(rng, rng.choice(["answer", "question", "other"]), 40) for _ in range(3)],
    }


def scored(rng: random.Random) -> dict[str, Any]:
    documents = [text(rng, "answer", 50) for _ in range(4)]
    return {"query": text(rng, "question", 40), "documents": documents, "scores": [rng.random() for _ in documents]}


def graded(rng: random.Random) -> dict[str, Any]:
    documents = [text(rng, "answer", 50).strip() for _ in range(4)] + [rng.choice(["more", "  ", ""])]
    row = {"query": f"question {rng.randrange(30)}", "documents": documents}
    row |= {"labels": [len(each) % 4 for each in documents], "weight": rng.choice([1, 2, 0.5])}
    return row | {"prompt": rng.choice(["", "one: ", "other: "])}


def preferences(rng: random.Random) -> dict[str, Any]:
    return {
        "prompt": text(rng, "question", 20),
        "chosen": text(rng, "good", 30),
        "rejected": text(rng, "bad", 30),
    }


def mixed(rng: random.Random) -> dict[str, Any]:
    return rng.choice([pairs, triples])(rng)


LAYOUTS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    each.__name__: each for each in (pairs, labelled, degrees, triples, scored, graded, preferences, mixed)
}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {"dev_fraction": 0.2},
    "bm25": {"candidates": BM25Candidates(depth=3), "lists": ListOptions(random_fraction=0.5)},
    "relevant_from": {"relevant_from": 1.0, "max_held_out": 2},
    "no candidates": {"candidates": NoCandidates(), "lists": ListOptions(random_fraction=1.0)},
    "rank_own_document": {"rank_own_document": True, "test_fraction": 0.0},
}


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def content(collection: Collection) -> dict[str, Any]:
    parts: dict[str, Any] = {"documents": list(collection.documents.items())}
    names = ("name", "fingerprint", "excluded", "missing", "available", "keep_queries_without_positives", "skipped")
    for name in names:
        parts[name] = getattr(collection, name)
    parts["skipped"] = list(parts["skipped"])
    for name, split in collection.splits.items():
        for part in ("queries", "qrels", "candidates", "labels", "prompts"):
            parts[f"{name} {part}"] = repr(list(getattr(split, part).items()))  # as text, since nan is not nan
        parts[f"{name} other"] = (dict(split.weights), split.degrees, split.ranked, split.listed)
        parts[f"{name} own"] = {query: set(own) for query, own in split.own_documents.items()}
    return parts


def examples(collection: Collection) -> list[Any]:
    lists = TrainingLists(collection, Tokenizer(), list_size=5, seed=3, options=collection.lists)
    found = [lists[epoch, index] for index in range(len(lists)) for epoch in range(2)]
    names = ("labels", "teacher_scores", "document_hashes", "never_negatives")
    return [
        (each.query_id, each.document_ids, each.weight, *(getattr(each, n).tobytes() for n in names)) for each in found
    ]


def built(
    options: FileConfig, is_stored: bool, caplog: pytest.LogCaptureFixture, is_large: bool | None = None
) -> tuple[Any, ...]:
    """What the options give: content, training lists and messages, or the error."""
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "STORED_FROM", 0 if (is_stored if is_large is None else is_large) else 2**60)
        try:
            collection = options.build()
        except ValueError as error:
            return (str(error),)
    assert isinstance(collection.documents, StoredTexts) == is_stored
    said = [line for line in caplog.messages if not any(known in line for known in SAID_OF_STORING)]
    try:
        batches: Any = examples(collection)
    except ValueError as error:
        batches = str(error)
    return content(collection), batches, said


def assert_same(options: FileConfig, caplog: pytest.LogCaptureFixture) -> tuple[Any, ...]:
    expected, found = (built(options, is_stored, caplog) for is_stored in (False, True))
    assert found == expected
    again = built(options, True, caplog)
    assert again == expected
    return expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chosen", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str, chosen: str, seed: int):
    rng = random.Random(f"{layout} {chosen} {seed}")
    path = write(tmp_path / "rows.jsonl", [LAYOUTS[layout](rng) for _ in range(90)])
    options = FileConfig(path=path, cache_dir=str(tmp_path / "cache"), on_error="skip", **OPTIONS[chosen])
    assert_same(options, caplog)
    assert_same(replace(options, on_error="stop"), caplog)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_held_out_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str):
    rng = random.Random(layout)
    files = {
        name: [LAYOUTS[layout](rng) for _ in range(size)] for name, size in (("", 90), ("dev_", 20), ("test_", 25))
    }
    paths = {f"{name}path": write(tmp_path / f"{name}rows.jsonl", rows) for name, rows in files.items()}
    expected = assert_same(FileConfig(**paths, cache_dir=str(tmp_path / "cache"), on_error="skip"), caplog)
    assert any("train queries" in line and "dropped" in line for line in expected[2])


def test_documents_that_are_dropped_everywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [
        {"query": "a", "positive": "b", "negative": ["B ", "c"]},
        {"query": "d", "positive": "b", "negative": ["C", "e"]},
        {"query": "e", "positive": "f", "negative": ["E", "c"]},
        *({"query": f"q{i}", "positive": f"p{i}", "negative": f"n{i}"} for i in range(9)),
    ]
    held_out = [{"query": f"h{i}", "positive": f"x{i}", "negative": each} for i, each in enumerate(["E ", "B", "c"])]
    options = FileConfig(
        path=write(tmp_path / "rows.jsonl", rows),
        dev_path=write(tmp_path / "dev.jsonl", held_out),
        cache_dir=str(tmp_path / "cache"),
    )
    found = dict(assert_same(options, caplog)[0]["documents"])
    assert "B " not in found.values()
    assert {"E ", "B", "C", "e", "c"} <= set(found.values())


def test_a_list_without_another_document_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"query": "a", "negative": "A "}, *({"query": f"q{i}", "negative": f"n{i}"} for i in range(9))]
    options = FileConfig(path=write(tmp_path / "rows.jsonl", rows), cache_dir=str(tmp_path / "cache"))
    found = assert_same(options, caplog)[0]
    assert "'a'" not in found["train queries"]
    assert "A " not in dict(found["documents"]).values()


CONFLICTS = [
    *({"query": f"q{i}", "document": f"d{i}", "label": 1} for i in range(12)),
    {"query": "q3", "document": "d3" * 40, "label": 0},
    {"query": "q3", "document": "new", "label": 2},
    {"query": "q7", "document": f"d{'7'} ", "label": 0},
    {"query": "", "document": "nothing", "label": 0},
    {"query": "q3", "document": "d3" * 40, "label": 1},
    {"query": "q3", "document": "new", "label": 1},
    {"query": "q8", "document": "d8", "label": "?"},
    {"query": "q9", "document": "d9", "label": 0},
    *({"query": f"r{i}", "document": f"d{i}", "label": 0} for i in range(12)),
]


def test_rows_that_are_left_out_are_in_the_order_of_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path / "rows.jsonl", CONFLICTS)
    skipping = FileConfig(path=path, cache_dir=str(tmp_path / "cache"), on_error="skip")
    skipped = assert_same(skipping, caplog)[0]["skipped"]
    assert [int(row["where"].rpartition(":")[2]) for row in skipped] == [15, 16, 17, 18, 19, 20]
    assert "at " + path + ":13 it is 0" in skipped[2]["error"]


@pytest.mark.parametrize("kept", [slice(14, 15), slice(12, 13), slice(12, 17), slice(15, 19), slice(19, 20)])
def test_the_first_row_that_is_wrong_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: slice):
    path = write(tmp_path / "rows.jsonl", [*CONFLICTS[:12], *CONFLICTS[kept], *CONFLICTS[14:]])
    [error] = assert_same(FileConfig(path=path, cache_dir=str(tmp_path / "cache")), caplog)
    assert f"{path}:" in error


def test_rows_that_name_texts_by_id(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name, what in (("corpus", "document"), ("queries", "query")):
        write(tmp_path / f"{name}.jsonl", [{"_id": str(i), "text": f"{what} {i}"} for i in range(30)])
    rng = random.Random(0)
    rows = [
        {"query_id": str(rng.randrange(30)), "pos_id": str(rng.randrange(30)), "neg_id": str(rng.randrange(30))}
        for _ in range(60)
    ]
    options = FileConfig(path=write(tmp_path / "rows.jsonl", rows), cache_dir=str(tmp_path / "cache"))
    assert_same(options, caplog)


def test_rows_of_the_hub(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    import datasets

    def loaded(count: int) -> dict[str, Any]:
        rows = [{"query": f"question {i}", "document": f"answer {i}"} for i in range(count)]
        return {"train": datasets.Dataset.from_list(rows)}

    data = {"rows": loaded(30)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *place: data["rows"])
    options = FileConfig(path="owner/name", cache_dir=str(tmp_path / "cache"))
    expected = built(options, False, caplog)
    monkeypatch.setattr(build, "STORED_FROM_ROWS", 30)
    assert built(options, True, caplog, is_large=False) == expected
    monkeypatch.setattr(build, "_build_apart", None)
    assert built(options, True, caplog, is_large=False) == expected  # opened again
    data["rows"] = loaded(29)
    assert built(replace(options, cache_dir=str(tmp_path / "other")), False, caplog)[0] != expected[0]


def test_the_pool_keeps_each_text_once_in_the_order_of_its_use(tmp_path: Path):
    pool = text_pool.TextPool(tmp_path / "pool")
    rows = pool.add(["a", "b", "a", " a", "c"])
    assert rows.tolist() == [0, 1, 0, 2, 3]
    assert pool.add(["c", "d", " a"]).tolist() == [3, 4, 2]
    pool.note(np.array([2, 4, 1, 0]), np.array([5, 6, 7, 8]))
    documents, keys = pool.finish(tmp_path / "documents")
    assert list(documents.values()) == [" a", "d", "b"]
    assert len(keys) == 3


def test_many_hashes_are_found(tmp_path: Path):
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**62, size=5000))
    rng.shuffle(hashes)
    found = text_pool._RowsOfHashes()
    for part in np.array_split(np.arange(len(hashes) - 10), 60):
        found.add(hashes[part], part)
    assert found.find(hashes[:-10]).tolist() == list(range(len(hashes) - 10))
    assert set(found.find(hashes[-10:]).tolist()) == {-1}
