"""A collection in BEIR's format, small enough to train on in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = "red green blue apple pear train rank list query document python returns value what is the a of to in".split()  # noqa: SIM905


def write_tiny_collection(folder: Path) -> Path:
    """Write 60 documents of 4 to 30 words, and 24 train, 6 dev and 6 test queries with one relevant document each."""
    rng = random.Random(0)
    documents = {f"d{i}": " ".join(rng.choices(WORDS, k=rng.randint(4, 30))) for i in range(60)}
    _write(folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in documents.items()])
    (folder / "qrels").mkdir()
    queries, names = [], iter(rng.sample(sorted(documents), k=60))
    for split, size in (("train", 24), ("dev", 6), ("test", 6)):
        lines = ["query-id\tcorpus-id\tscore"]
        for number in range(size):
            query, document = f"{split}{number}", next(names)
            queries.append({"_id": query, "text": " ".join(rng.sample(documents[document].split(), k=4)) + f" {query}"})
            lines += [f"{query}\t{document}\t{rng.randint(1, 2)}"]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    _write(folder / "queries.jsonl", queries)
    return folder


def _write(file: Path, records: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
