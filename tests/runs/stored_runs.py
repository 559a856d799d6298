"""Folders such as runs leave them, written without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

RANKERS = ("first_stage", "before", "after", "fused")


def write_run(
    folder: Path,
    after: Mapping[str, float],
    *,
    steps: int = 10,
    settings: Mapping[str, Any] | None = None,
    data: str = "abc",
    finished: bool = True,
    stages: Mapping[str, int] | None = None,
    texts: Mapping[str, str] | None = None,
    metric: str = "nDCG@10",
) -> Path:
    """Write a run whose trained model has the values `after` of the test queries. `stages`: names with their steps."""
    (folder / "runs").mkdir(parents=True)
    config = {"run_name": folder.name, "eval": {"metric": metric}, "loss": {"temperature": 1.0}, **(settings or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {"git": {"revision": "f" * 40, "dirty": False}, "code_hash": "c0de", "world_size": 1}
    environment |= {"data": {"name": "docs", "fingerprint": data}, "versions": {"torch": "2.13.0"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _lines(steps, stages, metric)))
    if not finished:
        return folder
    values = {name: dict.fromkeys(after, place / 10) for place, name in enumerate(RANKERS, 1)}
    values["after"] = dict(after)
    means = {name: {metric: sum(own.values()) / len(own)} for name, own in values.items()}
    summary = {"metric": metric, "metrics": means, "data": "docs", "data_hash": data, "test_queries": len(after)}
    summary |= {name: own[metric] for name, own in means.items()}
    summary |= {"steps": steps, "seconds": 61.0, "rows_per_s": 12.5, "peak_memory_bytes": 2**30, "world_size": 1}
    summary["stages"] = [
        {"name": name, "metric": 0.5, "metrics": {metric: 0.5}, "best_dev": 0.4, "best_step": 1, "steps": number}
        | {"seconds": 30.0}
        for name, number in (stages or {}).items()
    ]
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = []
    for query in after:
        found = [{"id": f"d{place}", "grade": int(place == 1), "text": f"text {place} of {query}"} for place in (1, 2)]
        lines.append(
            {
                "query_id": query,
                "text": (texts or {}).get(query, f"what is {query}"),
                "values": {name: {metric: own[query]} for name, own in values.items()},
                "documents": {"before": found[::-1], "after": found},
            }
        )
    (folder / "runs" / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _lines(steps: int, stages: Mapping[str, int] | None, metric: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 0, "split": "test", "name": "before", metric: 0.2}]
    ends, total = [], 0
    for name, number in (stages or {}).items():
        total += number
        ends.append((total, name))
    for step in range(1, steps + 1):
        stage = {"stage": next(name for end, name in ends if step <= end)} if ends else {}
        lines.append({"step": step, "split": "train", **stage, "loss": 1 / step, "grad_norm": 0.5, "rows_per_s": 10.0})
        lines.append({"step": step, "split": "dev", **stage, metric: 0.3 + step / 100})
    return lines
