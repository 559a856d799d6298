"""Pairs and lists with degrees of similarity, and short runs on them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.collection import Collection
from data.formats.file import FileConfig
from launch.cli.catalog import suggest_fitting_losses
from launch.cli.compose import load
from recipes.training_run import train

WORDS = ("kettle", "lighthouse", "glacier", "violin", "harbour", "engine", "garden", "bridge", "lantern", "river")
STS = (0.4, 2.6, 4.8)
RATINGS = (1, 2, 3, 4, 5)
Row = tuple[str, str, float]


def pairs(levels: Sequence[float], count: int = 40) -> list[Row]:
    """One document to a query; the higher its level, the more words it shares with the query."""
    rng, found = random.Random(1), []
    for number in range(count):
        words = rng.sample(WORDS, 4)
        position = number % len(levels)
        shared = round(4 * position / (len(levels) - 1))
        others = rng.sample([word for word in WORDS if word not in words], 4 - shared)
        found.append(
            (f"{' '.join(words)} {number}", f"{' '.join([*words[:shared], *others])} {number}", levels[position])
        )
    return found


def write(path: Path, rows: Sequence[Row], label: str = "score") -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("sentence1", "sentence2", label), *rows])
    return str(path)


def write_lists(path: Path, levels: Sequence[float], count: int = 30) -> str:
    """Lists of a document of each level."""
    rows = [
        {"query": f"{WORDS[i % 10]} {i}", "docs": [f"{WORDS[j]} {i}" for j in range(len(levels))], "labels": levels}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str, **options: Any) -> Collection:
    return FileConfig(path=path, cache_dir=str(Path(path).parent), **options).build()


def run(overrides: list[str]) -> float | None:
    with suggest_fitting_losses():
        return train(load(overrides))


def result(tmp_path: Path, name: str = "run") -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """summary.json, config.yaml and the lines of metrics.jsonl."""
    folder = tmp_path / "outputs" / name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (
        json.loads((folder / "summary.json").read_text()),
        yaml.safe_load((folder / "config.yaml").read_text()),
        lines,
    )


COSENT = ["+exp=embedder_infonce", "loss=cosent"]
BCE = ["+exp=reranker_bce", "loss.pos_weight=null"]
