"""What was measured of each model, on disk: a model that is done is not measured again.

A folder of a model holds measured.json, queries.jsonl (the values of each query) and TREC runs. measured.json names
what the figures depend on, and hashes of all beside it: what is broken, or belongs to other settings, is no result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.collection import content_hash
from data.formats.trec import write_trec_run
from data.hashing import file_digest
from evaluation.metrics import Run
from runs.files import json_safe, write_atomic, write_json

MEASURED, QUERIES = "measured.json", "queries.jsonl"

PerQuery = dict[str, dict[str, float]]  # metric -> query -> value


@dataclass(frozen=True)
class Measurement:
    """The figures of one model in JSON types, the values of each query by metric, and its rankings by name."""

    figures: dict[str, Any]
    per_query: PerQuery
    runs: Mapping[str, Run] = field(default_factory=dict)


def save(folder: Path, key: str, measurement: Measurement) -> None:
    """Write a measurement in place of what is there, measured.json last."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, run in measurement.runs.items():
        write_trec_run(folder / f"{name}.run", run, tag=name)
    queries = next(iter(measurement.per_query.values()))
    lines = (
        {"query_id": query, **{metric: values[query] for metric, values in measurement.per_query.items()}}
        for query in queries
    )
    write_atomic(folder / QUERIES, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    figures = json_safe(measurement.figures)
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
    content = {"key": key, "digest": content_hash([figures]), "files": files, "figures": figures}
    write_json(folder / MEASURED, content)


def load(folder: Path, key: str) -> Measurement | None:
    """Read a measurement of that `key`, without its rankings; None if there is none, or if it is broken."""
    try:
        content = json.loads((folder / MEASURED).read_text(encoding="utf-8"))
        whole = content["key"] == key and content["digest"] == content_hash([content["figures"]])
        if not whole or any(file_digest(folder / name) != digest for name, digest in content["files"].items()):
            return None
        per_query: PerQuery = {}
        for line in (folder / QUERIES).read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            query = values.pop("query_id")
            for metric, value in values.items():
                per_query.setdefault(metric, {})[query] = value
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Measurement(content["figures"], per_query)
