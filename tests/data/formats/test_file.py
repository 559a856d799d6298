"""Every layout end to end: a file, the collection, training lists and the evaluation's candidates."""

import gzip
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data.batch import ListBatch, ListExample
from data.candidates import BM25Candidates, RunFileCandidates
from data.collection import Collection
from data.formats.file import FileConfig
from data.sampling.list_options import ListOptions
from data.sampling.mixture import make_loader
from data.sampling.training_lists import TrainingLists

WORDS = ("wing", "heat", "jet", "shell", "drag", "lift", "panel", "nozzle", "flutter", "layer", "duct", "spar")
Write = Callable[..., FileConfig]


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], query_prompt: str = "") -> Mapping[str, list[list[int]]]:
        return {"input_ids": [[*map(ord, query_prompt + query), *map(ord, document)] for document in documents]}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(rows)`: the configuration of a jsonl file with these rows."""

    def write(rows: Iterable[Mapping[str, Any]], name: str = "rows.jsonl", **options: Any) -> FileConfig:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        opener = gzip.open if name.endswith(".gz") else open
        with opener(tmp_path / name, "wt", encoding="utf-8") as file:
            file.write(text)
        return FileConfig(path=str(tmp_path / name), cache_dir=str(tmp_path), **options)

    return write


def examples(data: Collection, list_size: int = 8) -> list[ListExample]:
    lists = TrainingLists(data, Tokenizer(), list_size=list_size, seed=0, options=data.lists)
    return [lists[0, index] for index in range(len(lists))]


def content(data: Collection, list_size: int = 8) -> dict[str, dict[str, tuple[float, float | None]]]:
    """{query: {document: (label, teacher's score)}} of the training lists."""
    return {
        data.splits["train"].queries[e.query_id]: {
            data.documents[d]: (label, None if math.isnan(score) else score)
            for d, label, score in zip(e.document_ids, e.labels.tolist(), e.teacher_scores.tolist(), strict=True)
        }
        for e in examples(data, list_size)
    }


GRADED = {"positive", "relevance", "comparison", "labels", "levels", "several"}  # what training lists give
BINARY = GRADED | {"unit_labels"}
NOTHING_HELD_OUT = {"dev_fraction": 0.0, "test_fraction": 0.0}
GOOD, BAD, UNSCORED = (1, None), (0, None), None
LAYOUTS = {
    "positive pairs": ({"answer": "x", "question": "q"}, {"x": GOOD}, "positive"),
    "st pairs": ({"anchor": "q", "positive": "x"}, {"x": GOOD}, "positive"),
    "triplet": ({"negative": "y", "anchor": "q", "positive": "x"}, {"x": GOOD, "y": BAD}, "all"),
    "n-tuple": (
        {"query": "q", "positive": "x", "negative_1": "y", "negative_2": "z"},
        {"x": GOOD, "y": BAD, "z": BAD},
        "all",
    ),
    "flag embedding": (
        {
            "query": "q",
            "type": "normal",
            "pos": ["x", "u"],
            "neg": ["y"],
            "pos_scores": [0.9, 0.8],
            "neg_scores": [0.1],
        },
        {"x": (1, 0.9), "u": (1, 0.8), "y": (0, 0.1)},
        "all teacher_scores",
    ),
    "tevatron": (
        {
            "query_id": "7",
            "query": "q",
            "positive_passages": [{"docid": "1", "title": "x", "text": "u"}],
            "negative_passages": [{"docid": "2", "text": "y"}],
        },
        {"x u": GOOD, "y": BAD},
        "all",
    ),
    "margin": (
        {"query": "q", "positive": "x", "negative": "y", "score": 2.5},
        {"x": (1, 0.0), "y": (0, -2.5)},
        "all teacher_scores",
    ),
    "graded": (
        {"query": "q", "docs": ["x", "y", "z"], "labels": [2, 0, 1]},
        {"x": (2, None), "y": BAD, "z": GOOD},
        "grades",
    ),
    "teacher": (
        {"query": "q", "passages": [{"title": "x", "text": "u"}, {"text": "y"}], "scores": [3.5, -1]},
        {"x u": (0, 3.5), "y": (0, -1)},
        "several teacher_scores",
    ),
    "rank_llm": (
        {
            "query": {"text": "q", "qid": "3"},
            "candidates": [{"docid": "1", "score": 2, "doc": {"contents": "x"}}, {"score": 1.5, "doc": {"body": "y"}}],
        },
        {"x": (0, 2), "y": (0, 1.5)},
        "several teacher_scores",
    ),
    "preference": ({"prompt": "q", "chosen": "x", "rejected": "y"}, {"x": GOOD, "y": BAD}, "all"),
    "messages": (
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"role": "assistant", "content": "y"}],
        },
        {"x": GOOD, "y": BAD},
        "all",
    ),
    "ms-swift": (
        {
            "messages": [{"role": "user", "content": "q"}],
            "positive_messages": [[{"role": "assistant", "content": "x"}]],
            "negative_messages": [[{"role": "assistant", "content": "y"}], [{"role": "assistant", "content": "z"}]],
        },
        {"x": GOOD, "y": BAD, "z": BAD},
        "all",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_by_the_names_of_its_columns(name: str, write: Write):
    row, expected, given = LAYOUTS[name]
    data = write([row], **NOTHING_HELD_OUT).build()
    approximately = {text: tuple(map(pytest.approx, pair)) for text, pair in expected.items()}
    assert content(data) == {"q": approximately}
    names = {"positive": {"positive"}, "all": BINARY, "grades": GRADED}
    assert data.available == set().union(*(names.get(word, {word}) for word in given.split()))


def test_labelled_pairs_of_a_query_are_one_list(write: Write):
    rows = [
        {"query": "q", "document": "x", "label": 1},
        {"query": "r", "document": "y", "label": 0},
        {"query": "q", "document": "y", "label": 0},
    ]
    data = write(rows, **NOTHING_HELD_OUT).build()
    assert content(data) == {"q": {"x": GOOD, "y": BAD}, "r": {"y": BAD}}  # r has no relevant document, and stays
    assert data.available == BINARY
    assert data.available_with(list_size=1) == {"positive", "labels", "levels", "unit_labels"}
    likes = [{"prompt": r["query"], "completion": r["document"], "label": bool(r["label"])} for r in rows]
    assert content(write(likes, **NOTHING_HELD_OUT).build()) == content(data)
    with pytest.raises(ValueError, match=r"rows.jsonl:3: document 'x' of query 'q' has the label 0, at .*:1 it is 1;"):
        write([*rows[:2], {**rows[0], "label": 0}]).build()


def test_degrees_of_similarity_are_labels_and_nothing_else(write: Write):
    rows = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "score": i / 10} for i in range(5)]
    data = write(rows, **NOTHING_HELD_OUT).build()
    assert data.available == data.available_with(list_size=1) == {"levels", "unit_labels"}
    assert content(data)["a3"] == {"b3": (pytest.approx(0.3), None)}
    held_out = write(rows, test_fraction=0.4, dev_fraction=0.0).build().splits["test"]
    assert {label for judged in held_out.labels.values() for label in judged.values()} <= {0, 0.1, 0.2, 0.3, 0.4}


def test_preferences_of_a_prompt_stay_apart(write: Write):
    rows = [{"prompt": "q", "chosen": "x", "rejected": "y"}, {"prompt": "q", "chosen": "y", "rejected": "z"}]
    lists = [
        set(zip(e.document_ids, e.labels.tolist(), strict=True))
        for e in examples(write(rows, **NOTHING_HELD_OUT).build())
    ]
    assert len(lists) == 2
    assert all({label for _, label in pairs} == {0, 1} for pairs in lists)


def test_a_mined_negative_that_is_relevant_elsewhere_is_relevant(write: Write, caplog: pytest.LogCaptureFixture):
    rows = [{"query": "q", "positive": "x", "negative": "y"}, {"query": "q", "positive": "y", "negative": "z"}]
    with caplog.at_level(logging.WARNING):
        assert content(write(rows, **NOTHING_HELD_OUT).build()) == {"q": {"x": GOOD, "y": GOOD, "z": BAD}}
    assert "1 negatives are the query or a positive of it" in caplog.text


def test_weights_and_prompts_of_rows(write: Write):
    rows = [
        {"query": "q", "positive": "x"},
        {"query": "r", "positive": "y", "weight": 0.5, "prompt": "own: "},
        {"query": "r", "positive": "z", "weight": 1.5, "prompt": "own: "},
    ]
    first, second = examples(write(rows, query_prompt="all: ", **NOTHING_HELD_OUT).build(), list_size=1)
    assert (first.weight, second.weight) == (1.0, 1.0)
    starts = ["".join(map(chr, e.sequences.features["input_ids"][:6])) for e in (first, second)]
    assert starts == ["all: q", "own: r"]
    assert examples(write(rows[:2], **NOTHING_HELD_OUT).build())[1].weight == 0.5


def many(count: int = 40) -> list[dict[str, str]]:
    return [
        {
            "question": f"what about {WORDS[i % 12]} and {WORDS[(i * 5 + 1) % 12]} number{i}",
            "answer": f"the {WORDS[i % 12]} of {WORDS[(i * 7 + 2) % 12]} number{i}",
        }
        for i in range(count)
    ]


def test_held_out_queries_and_their_candidates(write: Write):
    data = write(many(), test_fraction=0.25).build()
    assert {name: len(split.queries) for name, split in data.splits.items()} == {"train": 26, "dev": 4, "test": 10}
    test = data.split("test")
    assert min(map(len, test.candidates.values())) > 1  # one answer each: BM25 over all answers
    assert sum(next(iter(test.qrels[q])) == found[0][0] for q, found in test.candidates.items()) >= 9
    longer = write([*many(), {"question": "one more", "answer": "y"}], "longer.jsonl", test_fraction=0.25).build()
    assert len(longer.split("test").queries.keys() & test.queries.keys()) >= 9  # chosen by their texts
    limited = write(many(), test_fraction=0.25, max_held_out=3).build()
    assert [len(limited.splits[name].queries) for name in ("dev", "test")] == [3, 3]


def test_own_documents_are_the_candidates_where_they_compare(write: Write):
    rows = [{**row, "neg": [f"{row['answer']} not", "nothing"]} for row in many()]
    data = write(rows).build()
    for name in ("dev", "test"):
        for query_id, found in data.splits[name].candidates.items():
            assert [score for _, score in found] == [0, 0, 0]
            assert {d for d, _ in found} == set(data.splits[name].qrels[query_id])
    places = [
        [d for d, _ in found].index(max(data.splits["test"].qrels[q], key=data.splits["test"].qrels[q].get))
        for q, found in data.splits["test"].candidates.items()
    ]
    assert len(set(places)) > 1  # the relevant one is not always the first
    everywhere = write(rows, candidates=BM25Candidates(depth=7)).build()
    assert {len(found) for found in everywhere.splits["test"].candidates.values()} == {7}


def test_a_teacher_without_labels_is_the_judge_of_held_out_queries(write: Write):
    rows = [{"query": row["question"], "docs": [row["answer"], "z"], "scores": [2.0, 3.0]} for row in many()]
    test = write(rows).build().split("test")
    assert all(sorted(judged.values()) == [0, 1] for judged in test.qrels.values())
    assert all(score == 0 for found in test.candidates.values() for _, score in found)


def test_negatives_from_the_corpus_only_where_asked_for(write: Write):
    options = {"lists": ListOptions(random_fraction=0.5), **NOTHING_HELD_OUT}
    data = write(many(), **options).build()
    assert {len(e.document_ids) for e in examples(data, 4)} == {4}
    assert data.available == BINARY
    hard = write(many(), candidates=BM25Candidates(depth=5), **NOTHING_HELD_OUT).build()
    assert {len(e.document_ids) for e in examples(hard, 4)} == {4}
    assert all(math.isnan(score) for e in examples(hard, 4) for score in e.teacher_scores)
    assert hard.available == data.available


def test_files_for_dev_and_test(write: Write, tmp_path: Path):
    write(many()[30:35], "dev.jsonl")
    write(many()[35:], "test.jsonl.gz")
    paths = {"dev_path": str(tmp_path / "dev.jsonl"), "test_path": str(tmp_path / "test.jsonl.gz")}
    data = write(many()[:32], "train.jsonl", **paths).build()
    assert {name: len(split.queries) for name, split in data.splits.items()} == {"train": 30, "dev": 5, "test": 5}


def test_separated_values_folders_and_globs(write: Write, tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.csv").write_text('anchor,positive,negative_1,negative_2\nq,"x, and\nmore",y,\nr,z,u,v\n')
    (tmp_path / "set" / "b.tsv").write_text('query\tdocument\tscore\ns\tan "open quote\t2\ns\tother\t0\n')
    for path in (tmp_path / "set", f"{tmp_path}/set/*"):
        data = FileConfig(path=str(path), **NOTHING_HELD_OUT).build()
        assert content(data) == {
            "q": {"x, and\nmore": GOOD, "y": BAD},
            "r": {"z": GOOD, "u": BAD, "v": BAD},
            "s": {'an "open quote': (2, None), "other": BAD},
        }


def test_parquet(tmp_path: Path):
    from datasets import Dataset

    rows = {"query": ["q", "r"], "docs": [["x", "y"], ["z"]], "labels": [[1, 0], [1]]}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))
    data = FileConfig(path=str(tmp_path / "rows.parquet"), **NOTHING_HELD_OUT).build()
    assert content(data) == {"q": {"x": GOOD, "y": BAD}, "r": {"z": GOOD}}


def test_batches_of_two_layouts_from_files_to_batches_on_two_ranks(write: Write):
    """Triplets and labelled pairs, over one and two ranks, whole and resumed."""
    triplets = [{**row, "negative": f"{row['answer']} not"} for row in many()]
    labelled = [{"query": r["question"], "document": r["answer"], "label": i % 2} for i, r in enumerate(many())]
    for name, rows in (("triplets.jsonl", triplets), ("labelled.jsonl", labelled)):
        data = write(rows, name).build()

        def take(rank: int, world_size: int, first: int, data: Collection = data) -> list[list[ListExample]]:
            loader = make_loader(
                data,
                Tokenizer(),
                list_size=4,
                batch_size=6,
                seed=1,
                rank=rank,
                world_size=world_size,
                workers=0,
                in_batch_negatives=True,
            )
            return list(itertools.islice(loader.iterate(first), 8))

        whole = take(0, 1, 0)
        assert [ListBatch(n, batch).num_duplicates for n, batch in enumerate(whole)] == [0] * 8
        names = [[e.query_id for e in batch] for batch in whole]
        shares = [take(rank, 2, 5) for rank in range(2)]
        assert [[shares[i % 2][n][i // 2].query_id for i in range(6)] for n in range(3)] == names[5:]
        assert {e.source for batch in whole for e in batch} == {name}


def test_the_fingerprint_follows_labels_scores_weights_and_prompts(write: Write):
    row = {"query": "q", "docs": ["x", "y"], "labels": [1, 0]}
    changes = ({}, {"labels": [1, 2]}, {"scores": [1, 2]}, {"scores": [1, 3]}, {"weight": 2}, {"prompt": "p"})
    seen = {write([{**row, **change}], **NOTHING_HELD_OUT).build().fingerprint for change in changes}
    assert len(seen) == len(changes)


def test_bad_options(tmp_path: Path, write: Write):
    for options, message in (
        ({"columns": {"qurey": "x"}}, r"data.columns.qurey is no field of a row: valid: query, document,"),
        ({"test_fraction": 0.95}, r"data.test_fraction=0.95 must be in \[0, 1 - data.dev_fraction\)"),
        ({"max_held_out": 0}, r"data.max_held_out=0 must be at least 1"),
        ({"candidates": RunFileCandidates(path="x")}, r"data/candidates=run names queries and documents by ids"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            FileConfig(path="x", **options)
    with pytest.raises(ValueError, match=r"data.path=.*rows.jsonl: it has no rows"):
        write([]).build()
    with pytest.raises(FileNotFoundError, match=r"^data.path=.*/nope: no such file or folder, and no file matches"):
        FileConfig(path=str(tmp_path / "nope")).build()
    with pytest.raises(FileNotFoundError, match=r"^data.dev_path=.*/nope: no such file"):
        write(many(), dev_path=str(tmp_path / "nope")).build()
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(
        ValueError, match=r"data.path=.*x.txt: the name must end in .arrow, .feather, .csv, .tsv, .json, .jsonl"
    ):
        FileConfig(path=str(tmp_path / "x.txt")).build()
