"""Writes docs/tutorials/sample, the small collection of the tutorials, from networkx: python docs/make_sample.py

It is committed, so that a tutorial prints the same with any version of networkx.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from data.formats.docstrings import DocstringsConfig

FOLDER = Path(__file__).parent / "tutorials" / "sample"
DOCUMENTS = 600
CONFIG = DocstringsConfig(packages=("networkx",), max_train_queries=300, max_dev_queries=40, max_test_queries=80)
NOTICE = """\
600 documents and 420 queries in BEIR's layout: the docstrings of {name} {version}, shortened. A query is the summary
sentence, a document the function's name and up to 40 words of the rest. Written by `python docs/make_sample.py`.

{licence}"""


def write_sample(source: Path, folder: Path) -> None:
    """Write the judged documents of a BEIR folder, and others up to 600, under short ids."""
    qrels = {}
    for split in ("train", "dev", "test"):
        lines = (source / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        qrels[split] = [line.split("\t") for line in lines[1:]]
    corpus = {row["_id"]: row for row in read_rows(source / "corpus.jsonl")}
    judged = {document: None for rows in qrels.values() for _, document, _ in rows}
    kept = [*judged, *(each for each in corpus if each not in judged)][:DOCUMENTS]
    document_ids = {name: f"d{number}" for number, name in enumerate(sorted(kept), 1)}
    queries = {row["_id"]: row["text"] for row in read_rows(source / "queries.jsonl")}
    query_ids = {name: f"q{number}" for number, name in enumerate(queries, 1)}
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_rows(folder / "corpus.jsonl", [{**corpus[name], "_id": number} for name, number in document_ids.items()])
    write_rows(folder / "queries.jsonl", [{"_id": query_ids[name], "text": text} for name, text in queries.items()])
    for split, rows in qrels.items():
        lines = [f"{query_ids[query]}\t{document_ids[document]}\t{grade}" for query, document, grade in rows]
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines])
        (folder / "qrels" / f"{split}.tsv").write_text(f"{text}\n", encoding="utf-8")


def read_rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    networkx = distribution("networkx")
    licence = next(file for file in networkx.files or [] if "LICENSE" in file.name).read_text()
    with tempfile.TemporaryDirectory() as whole:
        CONFIG.write(Path(whole))
        write_sample(Path(whole), FOLDER)
    notice = NOTICE.format(name="networkx", version=networkx.version, licence=licence)
    (FOLDER / "NOTICE.txt").write_text(notice, encoding="utf-8")
