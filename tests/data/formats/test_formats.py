"""A fixture of every format: 40 queries with 2 relevant and 2 other documents, equal canonical records from each."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import logging
import lzma
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.formats.file import FileConfig

COUNT = 40
Canonical = dict[str, dict[str, float]]  # query -> document -> label (or score)


@dataclass(frozen=True)
class Row:
    """A query with its relevant and its other documents, all by id and text."""

    id: str
    query: str
    positives: Mapping[str, str]
    negatives: Mapping[str, str]

    @property
    def documents(self) -> dict[str, str]:
        return {**self.positives, **self.negatives}

    @property
    def scores(self) -> list[float]:
        number = int(self.id)
        return [number + 0.75, number + 0.5, 0.25, -number - 1.0]


def row(number: int) -> Row:
    texts = [f"passage {kind} of number {number} says “{kind * 3}”, né" for kind in "abcd"]
    ids = [str(1000 + 4 * number + place) for place in range(4)]
    documents = dict(zip(ids, texts, strict=True))
    positives = {key: documents[key] for key in ids[:2]}
    return Row(str(number), f"what is the number {number}?", positives, {key: documents[key] for key in ids[2:]})


ROWS = [row(number) for number in range(COUNT)]
QUERIES = {row.id: row.query for row in ROWS}
DOCUMENTS = {key: text for row in ROWS for key, text in row.documents.items()}
LABELS: Canonical = {
    row.query: {**dict.fromkeys(row.positives.values(), 1.0), **dict.fromkeys(row.negatives.values(), 0.0)}
    for row in ROWS
}
SCORES: Canonical = {row.query: dict(zip(row.documents.values(), row.scores, strict=True)) for row in ROWS}
POSITIVES: Canonical = {row.query: dict.fromkeys(row.positives.values(), 1.0) for row in ROWS}
PREFERENCES: Canonical = {
    row.query: {next(iter(row.positives.values())): 1.0, next(iter(row.negatives.values())): 0.0} for row in ROWS
}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tsv(path: Path, rows: Iterable[Iterable[object]]) -> Path:
    path.write_text("".join("\t".join(map(str, cells)) + "\n" for cells in rows), encoding="utf-8")
    return path


def records(path: Path | str, split: str = "train", **options: Any) -> Canonical:
    """{query: {document: label, or score if there are no labels}} of the rows of a split."""
    found: Canonical = {}
    for record in FileConfig(path=str(path), **options).records(split):
        values = record.labels if record.labels is not None else record.scores
        assert values is not None
        found.setdefault(record.query, {}).update(zip(record.documents, values, strict=True))
    return found


def inline(**names: str) -> Callable[[Path], Path]:
    """Rows of query, positives and negatives under these names, as lists of texts."""

    def write(folder: Path) -> Path:
        parts = [
            {
                names["query"]: r.query,
                names["pos"]: list(r.positives.values()),
                names["neg"]: list(r.negatives.values()),
            }
            for r in ROWS
        ]
        return write_jsonl(folder / "rows.jsonl", parts)

    return write


def passages(texts: Mapping[str, str], key: str = "docid", **others: Any) -> list[dict[str, Any]]:
    return [{key: identifier, "title": "", "text": text, **others} for identifier, text in texts.items()]


def tevatron(folder: Path) -> Path:
    rows = [
        {
            "query_id": r.id,
            "query": r.query,
            "positive_passages": passages(r.positives),
            "negative_passages": passages(r.negatives),
        }
        for r in ROWS
    ]
    return write_jsonl(folder / "train.jsonl", rows)


def tevatron_by_id(folder: Path) -> Path:
    write_jsonl(folder / "corpus.jsonl", ({"docid": key, "document_text": text} for key, text in DOCUMENTS.items()))
    rows = [
        {
            "query_id": r.id,
            "query_text": r.query,
            "positive_document_ids": list(r.positives),
            "negative_document_ids": list(r.negatives),
        }
        for r in ROWS
    ]
    return write_jsonl(folder / "train.jsonl", rows)


def tevatron_folder(folder: Path) -> Path:
    return tevatron_by_id(folder).parent


def pylate_by_id(folder: Path) -> Path:
    from datasets import Dataset

    parts = {
        "train": [
            {"query_id": int(r.id), "document_ids": [int(d) for d in r.documents], "scores": r.scores} for r in ROWS
        ],
        "queries": [{"query_id": int(key), "text": text} for key, text in QUERIES.items()],
        "documents": [{"document_id": int(key), "text": text} for key, text in DOCUMENTS.items()],
    }
    for name, rows in parts.items():
        Dataset.from_list(rows).to_parquet(str(folder / f"{name}.parquet"))
    return folder / "train.parquet"


def pylate(folder: Path) -> Path:
    rows = []
    for r in ROWS:
        for positive in r.positives.values():
            negatives = {f"negative_{n}": text for n, text in enumerate(r.negatives.values(), start=1)}
            rows.append({"query": r.query, "positive": positive, **negatives})
    return write_jsonl(folder / "rows.jsonl", rows)


def rank_llm(folder: Path) -> Path:
    rows = [
        {
            "query": {"text": r.query, "qid": int(r.id)},
            "candidates": [
                {"docid": key, "score": score, "doc": {"title": "", "contents": text}}
                for (key, text), score in zip(r.documents.items(), r.scores, strict=True)
            ],
        }
        for r in ROWS
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def teacher(folder: Path) -> Path:
    rows = [{"query_id": r.id, "query": r.query, "passages": passages(r.documents), "scores": r.scores} for r in ROWS]
    return write_jsonl(folder / "rows.jsonl", rows)


def dpr(folder: Path) -> Path:
    rows = []
    for r in ROWS:
        first, second = ({key: text} for key, text in r.negatives.items())
        rows.append(
            {
                "dataset": "nq",
                "question": r.query,
                "answers": ["x"],
                "positive_ctxs": passages(r.positives, "passage_id", score=1000, title_score=1),
                "negative_ctxs": passages(first, "passage_id", score=0, title_score=0),
                "hard_negative_ctxs": passages(second, "passage_id", score=7.5, title_score=0),
            }
        )
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder / "train.json"


def ragged(folder: Path) -> Path:
    rows = [
        {"query": r.query, "docs": list(r.documents.values()), "labels": list(LABELS[r.query].values())} for r in ROWS
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def pairs(folder: Path) -> Path:
    rows = [(q, d, label) for q, judged in LABELS.items() for d, label in judged.items()]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "label"), *rows])
    return folder / "rows.csv"


def semicolons(folder: Path) -> Path:
    rows = [(q, d, label) for q, judged in LABELS.items() for d, label in judged.items()]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-16") as file:
        csv.writer(file, delimiter=";").writerows([("query", "document", "label"), *rows])
    return folder / "rows.csv"


def trl(folder: Path) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": r.query}],
            "chosen": [{"role": "assistant", "content": next(iter(r.positives.values()))}],
            "rejected": [{"role": "assistant", "content": next(iter(r.negatives.values()))}],
        }
        for r in ROWS
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def likes(folder: Path) -> Path:
    rows = [
        {"prompt": q, "completion": d, "label": bool(label)}
        for q, judged in LABELS.items()
        for d, label in judged.items()
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def ms_swift(folder: Path) -> Path:
    def said(texts: Iterable[str]) -> list[list[dict[str, str]]]:
        return [[{"role": "assistant", "content": text}] for text in texts]

    rows = [
        {
            "messages": [{"role": "user", "content": r.query}],
            "positive_messages": said(r.positives.values()),
            "negative_messages": said(r.negatives.values()),
        }
        for r in ROWS
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def triples(by_id: bool) -> list[tuple[str, str, str]]:
    return [
        (r.id, p, n) if by_id else (r.query, DOCUMENTS[p], DOCUMENTS[n])
        for r in ROWS
        for p in r.positives
        for n in r.negatives
    ]


def collection(folder: Path) -> None:
    write_tsv(folder / "collection.tsv", DOCUMENTS.items())
    write_tsv(folder / "queries.train.tsv", QUERIES.items())


def msmarco_texts(folder: Path) -> Path:
    return write_tsv(folder / "triples.train.small.tsv", triples(by_id=False))


def msmarco_ids(folder: Path) -> Path:
    collection(folder)
    return write_tsv(folder / "qidpidtriples.train.full.2.tsv", triples(by_id=True))


def msmarco_folder(folder: Path) -> Path:
    return msmarco_ids(folder).parent


def msmarco_qrels(folder: Path) -> Path:
    collection(folder)
    return write_tsv(folder / "qrels.train.tsv", [(r.id, 0, d, 1) for r in ROWS for d in r.positives])


def trec_run(folder: Path) -> Path:
    beir_texts(folder)
    lines = [
        f"{r.id} Q0 {d} {rank} {score} bm25\n"
        for r in ROWS
        for rank, (d, score) in enumerate(zip(r.documents, r.scores, strict=True), start=1)
    ]
    (folder / "run.bm25.trec").write_text("".join(lines))
    return folder / "run.bm25.trec"


def beir_texts(folder: Path) -> None:
    write_jsonl(folder / "corpus.jsonl", ({"_id": key, "title": "", "text": text} for key, text in DOCUMENTS.items()))
    write_jsonl(folder / "queries.jsonl", ({"_id": key, "text": text} for key, text in QUERIES.items()))


def trec_qrels(folder: Path) -> Path:
    beir_texts(folder)
    lines = [f"{r.id} 0 {d} {int(LABELS[r.query][text])}\n" for r in ROWS for d, text in r.documents.items()]
    (folder / "qrels.txt").write_text("".join(lines))
    return folder / "qrels.txt"


def beir_qrels(folder: Path) -> Path:
    """The judgements of a BEIR folder, whose texts lie in the folder above."""
    beir_texts(folder)
    (folder / "qrels").mkdir()
    rows = [(r.id, d, int(LABELS[r.query][text])) for r in ROWS for d, text in r.documents.items()]
    return write_tsv(folder / "qrels" / "train.tsv", [("query-id", "corpus-id", "score"), *rows])


def arrow(folder: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list([json.loads(line) for line in ragged(folder).read_text().splitlines()]).save_to_disk(
        str(folder / "saved")
    )
    return folder / "saved"


def parquet(folder: Path) -> Path:
    from datasets import Dataset

    rows = [json.loads(line) for line in tevatron(folder).read_text().splitlines()]
    Dataset.from_list(rows).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


def compressed(suffix: str, compress: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = folder / f"packed.jsonl{suffix}"
        file.write_bytes(compress(ragged(folder).read_bytes()))
        return file

    return write


def zstandard(content: bytes) -> bytes:
    from pyarrow import Codec

    return Codec("zstd").compress(content, asbytes=True)


FORMATS: dict[str, tuple[Callable[[Path], Path], Canonical]] = {
    "tevatron": (tevatron, LABELS),
    "tevatron by id": (tevatron_by_id, LABELS),
    "tevatron by id, a folder": (tevatron_folder, LABELS),
    "flag embedding": (inline(query="query", pos="pos", neg="neg"), LABELS),
    "sentence-transformers n-tuples": (pylate, LABELS),
    "sentence-transformers pairs": (pairs, LABELS),
    "sentence-transformers ragged lists": (ragged, LABELS),
    "teacher lists": (teacher, SCORES),
    "trl preferences": (trl, PREFERENCES),
    "trl likes": (likes, LABELS),
    "ms-swift": (ms_swift, LABELS),
    "dpr": (dpr, LABELS),
    "rank_llm": (rank_llm, SCORES),
    "pylate by id": (pylate_by_id, SCORES),
    "ms marco triples": (msmarco_texts, LABELS),
    "ms marco triples of ids": (msmarco_ids, LABELS),
    "ms marco folder": (msmarco_folder, LABELS),
    "ms marco judgements": (msmarco_qrels, POSITIVES),
    "trec run": (trec_run, SCORES),
    "trec judgements": (trec_qrels, LABELS),
    "beir judgements": (beir_qrels, LABELS),
    "arrow folder": (arrow, LABELS),
    "parquet": (parquet, LABELS),
    "semicolons and utf-16": (semicolons, LABELS),
    "gzip": (compressed(".gz", gzip.compress), LABELS),
    "gzip without its suffix": (compressed("", gzip.compress), LABELS),
    "zstandard": (compressed(".zst", zstandard), LABELS),
    "bzip2": (compressed(".bz2", bz2.compress), LABELS),
    "xz": (compressed(".xz", lzma.compress), LABELS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_records(name: str, tmp_path: Path):
    write, expected = FORMATS[name]
    assert records(write(tmp_path)) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_read_comes_back_from_a_file_of_its_own(name: str, tmp_path: Path):
    """A round trip by graded or scored lists."""
    write, expected = FORMATS[name]
    values = "scores" if expected is SCORES else "labels"
    found = records(write(tmp_path))
    rows = ({"query": q, "documents": list(judged), values: list(judged.values())} for q, judged in found.items())
    assert records(write_jsonl(tmp_path / "again" / "rows.jsonl", rows)) == expected


NAMED = {
    "tevatron": "Tevatron",
    "tevatron by id, a folder": "Tevatron by id",
    "flag embedding": "FlagEmbedding",
    "sentence-transformers n-tuples": "sentence-transformers triplets or n-tuples",
    "sentence-transformers pairs": "sentence-transformers pairs with labels",
    "sentence-transformers ragged lists": "sentence-transformers lists",
    "teacher lists": "teacher lists",
    "trl preferences": "TRL preferences",
    "trl likes": "TRL unpaired preferences",
    "ms-swift": "ms-swift",
    "dpr": "DPR",
    "rank_llm": "rank_llm",
    "pylate by id": "scored lists by id (PyLate, a TREC run)",
    "ms marco triples": "MS MARCO triples",
    "ms marco triples of ids": "MS MARCO triples by id",
    "ms marco judgements": "TREC judgements",
    "beir judgements": "BEIR judgements",
    "parquet": "Tevatron",
}


@pytest.mark.parametrize("name", NAMED)
def test_the_layout_has_its_name(name: str, tmp_path: Path):
    path = FORMATS[name][0](tmp_path)
    assert FileConfig(path=str(path)).reader().format_names() == [NAMED[name]]


def test_a_line_says_what_was_taken_if_that_was_not_obvious(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        FileConfig(path=str(msmarco_folder(tmp_path)), cache_dir=str(tmp_path)).build()
    assert "collection.tsv holds the documents of ids" in caplog.text
    assert f"the texts of 'positive_id' are in {tmp_path}/collection.tsv" in caplog.text
    caplog.clear()
    (tmp_path / "plain").mkdir()
    path = ragged(tmp_path / "plain")
    with caplog.at_level(logging.WARNING):
        FileConfig(path=str(path), cache_dir=str(tmp_path)).build()
    assert caplog.text == ""
