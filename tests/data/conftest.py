"""Tiny collections in BEIR's layout, written by the tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

WORDS = (
    "wing",
    "slipstream",
    "layer",
    "heat",
    "shell",
    "buckling",
    "nozzle",
    "jet",
    "flutter",
    "panel",
    "drag",
    "lift",
)


def documents(count: int = 40) -> dict[str, str]:
    return {
        f"d{i}": " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 7)) + f" number{i}" for i in range(count)
    }


def queries(count: int = 20) -> dict[str, str]:
    return {f"q{i}": f"{WORDS[i % len(WORDS)]} and {WORDS[(i + 3) % len(WORDS)]} number{i}" for i in range(count)}


@pytest.fixture
def write_beir(tmp_path: Path) -> Callable[..., Path]:
    """`write_beir(train=..., test=...)`: a folder with 40 documents d0.. and 20 queries q0..; a split is {query:
    {document: grade}}."""

    def write(folder: str = "tiny", **splits: Mapping[str, Mapping[str, int]]) -> Path:
        path = tmp_path / folder
        (path / "qrels").mkdir(parents=True)
        corpus = [{"_id": key, "title": "", "text": text} for key, text in documents().items()]
        asked = [{"_id": key, "text": text} for key, text in queries().items()]
        for name, rows in (("corpus", corpus), ("queries", asked)):
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for split, judged in splits.items():
            rows = [f"{q}\t{d}\t{g}" for q, grades in judged.items() for d, g in grades.items()]
            (path / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
        return path

    return write


@pytest.fixture
def tiny(write_beir: Callable[..., Path]) -> Path:
    """14 train and 6 test queries; query qi is about document di."""
    train = {f"q{i}": {f"d{i}": 2, f"d{i + 20}": 1} for i in range(14)}
    return write_beir(train=train, test={f"q{i}": {f"d{i}": 1} for i in range(14, 20)})
