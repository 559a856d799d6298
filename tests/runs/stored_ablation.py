"""An ablation on disk, as launch/ablate.py leaves it, with runs that have given results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRIC = "nDCG@10"


def write_run(
    folder: Path, values: Mapping[str, float], *, seconds: float, best_dev: float | None, **more: Any
) -> None:
    """Write a finished run whose test queries have these values. Without queries, the values are stored as their mean
    alone."""
    (folder / "runs").mkdir(parents=True)
    mean = sum(values.values()) / len(values)
    summary = {
        "metric": METRIC,
        "before": 0.1,
        "first_stage": 0.4,
        "after": mean,
        "metrics": {"before": {METRIC: 0.1}, "after": {METRIC: mean}},
        "best_dev": best_dev,
        "best_step": 40,
        "seconds": seconds,
        "tokens_per_s": 1000.0,
        "peak_memory_bytes": 2**30,
        "test_queries": len(values),
        "steps": 40,
        **more,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"query_id": query, "text": f"text of {query}", "values": {"after": {METRIC: value}}, "documents": {}}
        for query, value in values.items()
    ]
    (folder / "runs" / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_ablation(
    folder: Path,
    values: Mapping[str, Mapping[int, Mapping[str, float]]],
    *,
    failed: Sequence[tuple[str, int]] = (),
    overrides: Mapping[str, Sequence[str]] | None = None,
    dev: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write the runs of an ablation. Returns its plan, the content of ablation.json without results. The n-th
    configuration has trained 10 n seconds."""
    jobs = []
    for place, (name, seeds) in enumerate(values.items(), 1):
        for seed, own in seeds.items():
            run = f"runs/{place}-seed{seed}"
            best_dev = dev[name] if dev else sum(own.values()) / len(own)
            write_run(folder / run, own, seconds=10.0 * place, best_dev=best_dev)
            jobs.append({"configuration": name, "seed": seed, "run": run, "status": "finished", "error": None})
    for name, seed in failed:
        job = {"configuration": name, "seed": seed, "run": f"runs/{name}-{seed}", "status": "failed"}
        jobs.append({**job, "error": "the <loss> is not finite"})
    names = list(dict.fromkeys(job["configuration"] for job in jobs))
    return {
        "name": folder.name,
        "settings": ["+exp=reranker_listwise"],
        "metric": METRIC,
        "baseline": names[0],
        "seeds": [1, 2, 3],
        "configurations": [{"name": name, "overrides": list((overrides or {}).get(name, [name]))} for name in names],
        "jobs": [{**job, "seconds": None} for job in jobs],
        "results": None,
    }
