"""NanoBEIR's layout: one set or several, parquet and JSONL, on disk and on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from data.candidates import NoCandidates
from data.formats import nanobeir
from data.formats.nanobeir import NanoBEIRConfig, is_nanobeir

SETS = ("NanoA", "NanoB", "NanoC")


def rows_of(name: str) -> dict[str, list[dict[str, str]]]:
    """Three documents, two queries, and their judgements without a score, of a set."""
    return {
        "corpus": [{"_id": f"{name}-d{i}", "text": f"{name} text {i}"} for i in range(3)],
        "queries": [{"_id": f"{name}-q{i}", "text": f"{name} question {i}"} for i in range(2)],
        "qrels": [{"query-id": f"{name}-q{i}", "corpus-id": f"{name}-d{i}"} for i in range(2)],
    }


def config(path: Path | str, **options) -> NanoBEIRConfig:
    return NanoBEIRConfig(path=str(path), candidates=NoCandidates(), **options)


def write(folder: Path, names: dict[str, str], suffix: str) -> Path:
    """Write the parts of sets to files called after `names` (set -> file)."""
    for name, file in names.items():
        for part, rows in rows_of(name).items():
            place = folder / part / f"{file}{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".parquet":
                Dataset.from_list(rows).to_parquet(place)
            else:
                place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(("end", "suffix"), [("-00000-of-00001", ".parquet"), ("", ".jsonl")])
def test_each_table_of_the_corpus_is_a_set(tmp_path, end, suffix):
    folder = write(tmp_path, {name: name + end for name in SETS}, suffix)
    assert is_nanobeir(str(folder))
    sets = config(folder).evaluated_sets()
    assert list(sets) == list(SETS)
    collection = sets["NanoB"].build()
    assert collection.documents == {f"NanoB-d{i}": f"NanoB text {i}" for i in range(3)}
    assert collection.split("test").qrels == {f"NanoB-q{i}": {f"NanoB-d{i}": 1} for i in range(2)}
    assert list(collection.splits) == ["test"]
    assert list(config(folder, subset="NanoB").evaluated_sets()) == [""]
    assert len(config(folder).places()["path"]) == 9


def test_the_judgements_of_a_single_set_are_test_although_they_are_called_train(tmp_path):
    folder = write(tmp_path / "NanoA", {"NanoA": "train-00000-of-00001"}, ".parquet")
    [(name, options)] = config(folder).evaluated_sets().items()
    collection = options.build()
    assert (name, collection.name, list(collection.splits)) == ("", "NanoA", ["test"])


def test_a_corpus_in_several_files_and_judgements_that_list_documents(tmp_path):
    for part, rows in rows_of("x").items():
        (tmp_path / part).mkdir()
        kept = rows if part != "qrels" else [{"query-id": "x-q0", "corpus-id": ["x-d0", "x-d2"]}]
        for number, row in enumerate(kept):
            Dataset.from_list([row]).to_parquet(tmp_path / part / f"train-0000{number}-of-0000{len(kept)}.parquet")
    collection = config(tmp_path).build()
    assert list(collection.documents) == ["x-d0", "x-d1", "x-d2"]
    assert collection.split("test").qrels == {"x-q0": {"x-d0": 1, "x-d2": 1}}


def test_with_one_corpus_tables_of_judgements_are_splits(tmp_path):
    folder = write(tmp_path, {"x": "corpus"}, ".jsonl")
    judged = folder / "qrels" / "corpus.jsonl"
    first, second = judged.read_text().splitlines()
    (folder / "qrels" / "validation.jsonl").write_text(first)
    judged.rename(folder / "qrels" / "test.jsonl").write_text(second)
    splits = config(folder).build().splits
    assert {name: list(split.qrels) for name, split in splits.items()} == {"dev": ["x-q0"], "test": ["x-q1"]}


def test_a_data_set_of_the_hub(monkeypatch):
    def load_dataset(name: str, part: str) -> DatasetDict:
        assert name == "owner/NanoBEIR-en"
        return DatasetDict({each: Dataset.from_list(rows_of(each)[part]) for each in SETS})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert is_nanobeir("owner/NanoBEIR-en")
    sets = config("owner/NanoBEIR-en").evaluated_sets()
    assert list(sets) == list(SETS)
    assert list(sets["NanoC"].build().documents) == [f"NanoC-d{i}" for i in range(3)]


def test_a_hub_id_whose_judgements_are_of_test_is_left_to_the_reader_of_beir(monkeypatch):
    tables = {"corpus": "corpus", "queries": "queries", "qrels": "test"}
    monkeypatch.setattr(
        "datasets.load_dataset", lambda name, part: DatasetDict({tables[part]: Dataset.from_list(rows_of("x")[part])})
    )
    assert not is_nanobeir("owner/scifact")


def test_mistakes_name_the_place(tmp_path):
    folder = write(tmp_path, {name: name for name in SETS}, ".jsonl")
    with pytest.raises(ValueError, match=r"has several sets: data.subset=NAME chooses one: NanoA, NanoB, NanoC"):
        config(folder).build()
    with pytest.raises(ValueError, match=r"data.subset=NanoD is no set of .*: it has NanoA, NanoB, NanoC"):
        config(folder, subset="NanoD").build()
    (folder / "queries" / "NanoC.jsonl").unlink()
    with pytest.raises(ValueError, match=r"queries has NanoA, NanoB, and no NanoC"):
        config(folder, subset="NanoC").build()
    (folder / "qrels" / "NanoA.jsonl").write_text('{"query-id": "NanoA-q0"}\n')
    with pytest.raises(ValueError, match=r"NanoA.jsonl:1: no key 'corpus-id'"):
        config(folder, subset="NanoA").build()
    for file in (folder / "qrels").iterdir():
        file.unlink()
    assert not is_nanobeir(str(folder))
    with pytest.raises(FileNotFoundError, match=r"no qrels \(parquet or JSONL\) in "):
        nanobeir.local_parts(folder)
    with pytest.raises(FileNotFoundError, match=r"data.path=/no/such: no such folder, and no hub id"):
        config("/no/such").build()
