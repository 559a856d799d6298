"""The files of another run that an evaluation is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AFTER = Path("runs/after.run")  # of a training run
KINDS = "give a run of launch/train.py, output=FILE.json of launch/evaluate.py, or a TREC run file"


def check_against(path: Path) -> None:
    """Raise an error in one line if nothing can be compared with there."""
    rankings_of(path)


def rankings_of(path: Path) -> Path:
    """The TREC run of a training run (its model after training), of results of launch/evaluate.py (their model, or
    BM25), or the file itself."""
    if path.is_dir():
        return _existing(path, path / AFTER)
    if not path.is_file():
        raise FileNotFoundError(f"against={path}: no such file or folder: {KINDS}")
    if path.suffix != ".json":
        return path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rankers = list(content["metrics"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"against={path} has no results of launch/evaluate.py: {KINDS}") from None
    return _existing(path, path.with_suffix(f".{'model' if 'model' in rankers else rankers[0]}.run"))


def check_part(path: Path, partial: Mapping[str, Any] | None) -> None:
    """Raise ValueError if the other run has searched another part of the corpus (`eval.max_documents`) than this one,
    or if this one has searched a part and the other's files do not say what it has."""
    described = path / "summary.json" if path.is_dir() else path
    is_described = described.suffix == ".json" and described.is_file()
    other = json.loads(described.read_text(encoding="utf-8")).get("partial") if is_described else None
    if other != partial:
        own, its = ("the whole corpus" if part is None else "a part of it" for part in (partial, other))
        raise ValueError(
            f"against={path}: values over different parts of the corpus cannot be compared (here {own}, there {its}): "
            "evaluate both with the same eval.max_documents and fusion_weight, and give the other's output=FILE.json"
        )


def queries_of(path: Path) -> set[str] | None:
    """The queries that the other run has evaluated, with or without documents; None if its files do not say."""
    file = path.with_suffix(".queries.jsonl")
    if path.suffix != ".json" or not file.is_file():
        return None
    return {json.loads(line)["query_id"] for line in file.read_text(encoding="utf-8").splitlines()}


def _existing(path: Path, file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"against={path}: {file} does not exist: {KINDS}")
    return file
