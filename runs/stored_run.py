"""Read what a run has left on disk: finished or not, a stage, or the results of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.environment import read_environment
from runs.files import read_json
from runs.settings_diff import read_config

QUERIES = Path("runs/queries.jsonl")  # of a training run: a line for each test query
TEST_SUITE = Path("runs/test_suite")  # SET.jsonl: as QUERIES, for each set of `test_suite`
OF_EVALUATION = ".queries.jsonl"  # beside FILE.json of launch/evaluate.py
TRACEBACK = "traceback.txt"
KINDS = "give outputs/RUN, one of its stages, or FILE.json of launch/evaluate.py"
_FILES = ("config.yaml", "metrics.jsonl", "summary.json")  # a run folder has one of them


@dataclass(frozen=True)
class StoredRun:
    """A run as its files describe it. `summary` is None if the run is not finished; `config` and `environment` are
    empty if it has none."""

    path: Path
    name: str
    config: dict[str, Any]
    summary: dict[str, Any] | None
    environment: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> StoredRun:
        """Read a run folder, or FILE.json of launch/evaluate.py. Raises ValueError, in one line, if it is neither or
        if one of its files is broken."""
        path = Path(path)
        if path.is_file() and path.suffix == ".json":
            return _read_evaluation(path)
        if path.is_file():
            raise ValueError(f"{path} is a file that is not a .json: {KINDS}")
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder ({path.absolute()}): {KINDS}")
        if not _is_run(path):
            runs = [other for other in sorted(path.iterdir()) if _is_run(other)]
            kinds = f"give the runs in it, such as {runs[0]}" if runs else KINDS
            raise ValueError(f"{path} is no run: it has no {_FILES[0]}: {kinds}")
        config = read_config(path) if (path / "config.yaml").is_file() else {}
        summary = read_json(path / "summary.json") if (path / "summary.json").is_file() else None
        return cls(path, path.resolve().name, config or {}, summary, read_environment(path))

    @property
    def finished(self) -> bool:
        return self.summary is not None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. One that was being written when the run was killed is left out."""
        return [line for line in _lines(self.path / "metrics.jsonl") if {"step", "split"} <= line.keys()]

    def queries(self) -> dict[str, dict[str, Any]]:
        """The test queries by id: {"query_id", "text", "values": {ranker: {metric: value}}, "documents": {ranker:
        [{"id", "grade", "text"}]}}.

        Empty if the run has not stored them, or is not finished: a resumed run may have those of before. An evaluation
        stores no texts.
        """
        if not self.finished:
            return {}
        if self.path.is_dir():
            return _by_id(self.path / QUERIES)
        found = {}
        for line in _lines(self.path.with_suffix(OF_EVALUATION)):
            query, values = str(line["query_id"]), {name: own for name, own in line.items() if name != "query_id"}
            found[query] = {"query_id": query, "text": "", "values": values, "documents": {}}
        return found

    def queries_of(self, name: str) -> dict[str, dict[str, Any]]:
        """The test queries of that set of `test_suite`, as `queries`; empty if the run has not measured it."""
        return _by_id(self.path / TEST_SUITE / f"{name}.jsonl") if self.finished else {}

    def error(self) -> str | None:
        """The last line of the traceback that an unfinished run has left; None if there is none."""
        file = self.path / TRACEBACK
        if self.finished or not file.is_file():
            return None
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)


def _read_evaluation(file: Path) -> StoredRun:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of no run: there is nothing that `resume=none` could start from scratch
        raise ValueError(f"{file} is broken ({error}): {KINDS}") from None
    if isinstance(content, dict) and "sets" in content:
        some = f"{file.stem}.{next(iter(content['sets']), 'SET')}.json"
        raise ValueError(f"{file} is a suite: give the file of one of its data sets, such as {some}")
    if not (isinstance(content, dict) and "metric" in content and {"metrics", "first_stages"} & content.keys()):
        raise ValueError(f"{file} has no results of launch/evaluate.py: {KINDS}")
    return StoredRun(file, file.stem, {}, content, {})


def _by_id(file: Path) -> dict[str, dict[str, Any]]:
    return {str(line["query_id"]): line for line in _lines(file) if "query_id" in line}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; nothing if there is no such file. Lines that are no object are left out."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict):
            yield content
