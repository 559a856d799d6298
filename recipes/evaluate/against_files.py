"""The files of another run that an evaluation is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

AFTER = Path("runs/after.run")  # of a training run
KINDS = "give a run of launch/train.py, output=FILE.json of launch/evaluate.py, or a TREC run file"


def check_against(path: Path, *, may_be_suite: bool = False) -> None:
    """Raise an error in one line if nothing can be compared with there."""
    if not (may_be_suite and path.suffix == ".json" and path.is_file() and "sets" in _results(path)):
        rankings_of(path)


def check_against_suite(path: Path, sets: Sequence[str]) -> None:
    """Raise an error in one line if the other run is no suite of these data sets."""
    other = list(_results(path).get("sets", {})) if path.suffix == ".json" else []
    if not other:
        raise ValueError(f"against={path} has no results of a suite: give output=FILE.json of one with the same sets")
    if absent := [name for name in sets if name not in other]:
        raise ValueError(f"against={path} has the sets {', '.join(other)}, and no {absent[0]}: evaluate both alike")


def rankings_of(path: Path) -> Path:
    """The TREC run of a training run (its model after training), of results of launch/evaluate.py (their model, or
    BM25), or the file itself."""
    if path.is_dir():
        return _existing(path, path / AFTER)
    if not path.is_file():
        raise FileNotFoundError(f"against={path}: no such file or folder: {KINDS}")
    if path.suffix != ".json":
        return path
    content = _results(path)
    if "sets" in content:
        name = next(iter(content["sets"]), "SET")
        raise ValueError(
            f"against={path} is a suite: give the file of one of its sets, such as {path.stem}.{name}.json"
        )
    if stages := content.get("first_stages"):
        file = path.with_suffix(f".{next(iter(stages))}.model.run").name
        raise ValueError(f"against={path} has several first stages: give the run of one, such as {file}")
    rankers = list(content["metrics"])
    return _existing(path, path.with_suffix(f".{'model' if 'model' in rankers else rankers[0]}.run"))


def check_part(path: Path, partial: Mapping[str, Any] | None) -> None:
    """Raise ValueError if the other run has searched another part of the corpus (`eval.max_documents`) than this one,
    or if this one has searched a part and the other's files do not say what it has."""
    other = _described(path).get("partial")
    if other != partial:
        own, its = ("the whole corpus" if part is None else "a part of it" for part in (partial, other))
        raise ValueError(
            f"against={path}: values over different parts of the corpus cannot be compared (here {own}, there {its}): "
            "evaluate both with the same eval.max_documents and fusion_weight, and give the other's output=FILE.json"
        )


def other_texts(path: Path, texts_hash: str) -> str:
    """The name of the data of the other run if its queries or documents have other texts than those of this hash; empty
    if they are the same, or its files do not say."""
    other = _described(path)
    return str(other["data"]) if other.get("texts_hash", texts_hash) != texts_hash else ""


def _described(path: Path) -> dict[str, Any]:
    """What the other run's summary says; empty for a file of rankings."""
    file = path / "summary.json" if path.is_dir() else path
    is_described = file.suffix == ".json" and file.is_file()
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if is_described else {}
    return content


def queries_of(path: Path) -> set[str] | None:
    """The queries that the other run has evaluated, with or without documents; None if its files do not say."""
    file = path.with_suffix(".queries.jsonl")
    if path.suffix != ".json" or not file.is_file():
        return None
    return {json.loads(line)["query_id"] for line in file.read_text(encoding="utf-8").splitlines()}


def _results(path: Path) -> dict[str, Any]:
    """The results in a file of launch/evaluate.py, of one data set (`metrics`, or `first_stages`) or a suite
    (`sets`)."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"sets", "first_stages"} & content.keys():
            _ = list(content["metrics"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"against={path} has no results of launch/evaluate.py: {KINDS}") from None
    return content


def _existing(path: Path, file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"against={path}: {file} does not exist: {KINDS}")
    return file
