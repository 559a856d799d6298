"""Write a part of a collection in BEIR's layout as text files without queries, and its test queries beside them.

    python benchmarks/document_data.py COLLECTION FOLDER

FOLDER/texts/ has 2,000 documents, or all that are judged if they are more, one file each: title, empty line, text.
FOLDER/test/ has the same documents in BEIR's layout with the test queries that they answer, and no others: nothing that
is trained or chosen can use a judgement. The documents are those judged in test, then those with the lowest MD5 of
their id.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from stage_data import write

NUM_DOCUMENTS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    qrels = options.collection / "qrels" / "test.tsv"
    with qrels.open(encoding="utf-8", newline="") as lines:
        judged = list(csv.DictReader(lines, delimiter="\t"))
    first = {row["corpus-id"] for row in judged}
    documents = sorted(read(options.collection / "corpus.jsonl"), key=lambda row: order(row["_id"], first))
    documents = documents[: max(NUM_DOCUMENTS, len(first))]
    asked = {row["query-id"] for row in judged}
    queries = [row for row in read(options.collection / "queries.jsonl") if row["_id"] in asked]

    texts, test = options.folder / "texts", options.folder / "test"
    for folder in (texts, test / "qrels"):
        folder.mkdir(parents=True, exist_ok=True)
    for row in documents:
        (texts / f"{row['_id']}.txt").write_text(f"{row['title']}\n\n{row['text']}\n", encoding="utf-8")
    write(test / "corpus.jsonl", documents)
    write(test / "queries.jsonl", queries)
    (test / "qrels" / "test.tsv").write_bytes(qrels.read_bytes())
    print(f"{options.folder}: {len(documents):,} documents, {len(queries):,} test queries")


def order(document: str, first: set[str]) -> tuple[bool, str]:
    return document not in first, hashlib.md5(document.encode()).hexdigest()


def read(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
