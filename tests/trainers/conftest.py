"""A collection small enough to train on in seconds, in BEIR's layout."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

WORDS = "red green blue apple pear train rank list query document python returns value what is the a of to in".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tiny_beir_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of 4 to 30 words, 24 train, 6 dev and 6 test queries with 1 to 2 graded documents each."""
    folder = tmp_path_factory.mktemp("tiny_beir")
    draw = random.Random(0)
    documents = {f"d{i}": " ".join(draw.choices(WORDS, k=draw.randint(4, 30))) for i in range(60)}
    _write(folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in documents.items()])
    (folder / "qrels").mkdir()
    queries, names = [], iter(draw.sample(sorted(documents), k=60))
    for split, size in (("train", 24), ("dev", 6), ("test", 6)):
        lines = ["query-id\tcorpus-id\tscore"]
        for number in range(size):
            query, document = f"{split}{number}", next(names)
            queries.append(
                {"_id": query, "text": " ".join(draw.sample(documents[document].split(), k=4)) + f" {query}"}
            )
            lines += [f"{query}\t{document}\t{draw.randint(1, 2)}"]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    _write(folder / "queries.jsonl", queries)
    return folder


@pytest.fixture
def tiny_run(tiny_beir_dir: Path, tiny_bert_dir: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run of a few seconds: ragged lists, several chunks a step, plain SGD."""
    return [
        "data=beir",
        f"data.path={tiny_beir_dir}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.lists.random_fraction=0",
        "data.candidates.depth=12",
        f"model.name_or_path={tiny_bert_dir}",
        "model.max_length=48",
        "trainer.optimizer=sgd",
        "trainer.learning_rate=0.05",
        "trainer.batch_size=3",
        "trainer.list_size=7",
        "trainer.token_budget=160",
        "trainer.kept_chunks=1",
        "trainer.workers=0",
        "eval.depth=8",
        "logger=none",
        f"output_dir={tmp_path / 'outputs'}",
    ]


def _write(file: Path, records: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
