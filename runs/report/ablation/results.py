"""The results of an ablation, from what its finished jobs have left on disk: the "results" of ablation.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from evaluation.ablation import Difference, Estimate, Seeds, best_of, compare, estimate, shared_queries, tied_with
from runs.report.ablation.search import search_results
from runs.stored_run import StoredRun

RANKER = "after"  # the trained model alone
COSTS = ("seconds", "tokens_per_s", "peak_memory_bytes")
KEPT = ("before", "first_stage", "best_dev", "best_step", *COSTS)  # of a run's summary
ALL = ""  # the name of the one "query" of runs that have no values of single queries


def ablation_results(folder: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of the finished jobs of `plan`, the content of ablation.json in `folder`; None if there is none.

    "configurations" has, by name, the mean over seeds and test queries with interval and spread, the values of each
    seed, the cost, and the jobs that are not finished. "pairs" are the tests of all pairs
    (`evaluation.ablation.compare`), "best" the configuration with the highest mean (of a search: the highest value on
    dev), "tied" those that no test tells apart from it, "least" the median over pairs of the smallest difference that
    could be told.

    Raises ValueError, in one line, if a run's files are broken.
    """
    finished = [job for job in plan["jobs"] if job["status"] == "finished"]
    if not finished:
        return None
    names = [configuration["name"] for configuration in plan["configurations"]]
    runs = {job["run"]: StoredRun.read(folder / job["run"]) for job in finished}
    summaries = {run: stored.summary or {} for run, stored in runs.items()}
    metric = str(next(iter(summaries.values()))["metric"])
    measured = [job for job in finished if _value(summaries[job["run"]], metric) is not None]
    values, warnings = _values(measured, runs, summaries, metric)
    values = {name: values[name] for name in names if name in values}
    shared, total = _queries(values)
    warnings += [_other_metric(job, metric) for job in finished if job not in measured]
    warnings += _about_queries(len(shared), total) + _about_sources(list(runs.values()))
    common = _on(values, shared) if shared else values
    estimates = {name: estimate(seeds) for name, seeds in common.items() if shared_queries({name: seeds})}
    differences = compare(common) if shared else []
    entries = {name: _entry(name, estimates.get(name), plan["jobs"], measured, summaries, metric) for name in names}
    search = search_results(folder, plan, entries)
    scores = {
        name: search["dev"][name] if search else each.interval.mean
        for name, each in estimates.items()
        if not search or name in search["dev"]
    }
    best = best_of(scores) if scores else None
    return {
        "metric": metric,
        "queries": 0 if shared == [ALL] else len(shared),
        "best": best,
        "tied": tied_with(best, list(estimates), differences) if best else [],
        "first_stage": _mean(summaries[job["run"]].get("first_stage") for job in measured),
        "least": median(each.least for each in differences) if differences else None,
        "configurations": entries,
        "pairs": [_pair(each) for each in differences],
        "search": search,
        "warnings": warnings,
    }


def _values(
    jobs: Sequence[Mapping[str, Any]], runs: Mapping[str, StoredRun], summaries: Mapping[str, Any], metric: str
) -> tuple[dict[str, dict[int, dict[str, float]]], list[str]]:
    """The values of each configuration by seed and query. A query is its id with its text, since other data have other
    queries of the same id. If a run has stored no queries, the mean of every run is its only value."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    without = []
    for job in jobs:
        lines = runs[job["run"]].queries().items()
        own = {f"{query} {line['text']}": line["values"].get(RANKER, {}).get(metric) for query, line in lines}
        known = {query: float(value) for query, value in own.items() if value is not None}
        found[job["configuration"]][job["seed"]] = known
        without += [] if known else [job]
    if not without:
        return dict(found), []
    for job in jobs:
        found[job["configuration"]][job["seed"]] = {ALL: _value(summaries[job["run"]], metric) or 0.0}
    if len(without) == len(jobs):
        return dict(found), ["the runs have no values of single queries: seeds alone are counted"]
    label = f"{without[0]['configuration']}, seed {without[0]['seed']}"
    return dict(found), [f"{label} has no values of single queries: seeds alone are counted"]


def _queries(values: Mapping[str, Seeds]) -> tuple[list[str], int]:
    """The queries that all runs have, and the number of those that any run has."""
    return shared_queries(values), len({query for seeds in values.values() for own in seeds.values() for query in own})


def _on(values: Mapping[str, Seeds], queries: Iterable[str]) -> dict[str, Seeds]:
    queries = list(queries)
    return {
        name: {seed: {query: own[query] for query in queries} for seed, own in seeds.items()}
        for name, seeds in values.items()
    }


def _about_queries(shared: int, total: int) -> list[str]:
    if shared == total:
        return []
    if not shared:
        return ["the runs were evaluated on different test queries: they cannot be compared"]
    return [f"the test queries differ between runs: only the {shared:,} of {total:,} that all runs have are counted"]


def _about_sources(runs: Sequence[StoredRun]) -> list[str]:
    """Whether the runs were trained by different code, or on data that differ by more than the share of the seed."""
    found = []
    if len({run.environment["code_hash"] for run in runs if run.environment.get("code_hash")}) > 1:
        found.append("the code differs between runs (environment.json, code_hash): a difference may come from it")
    hashes: dict[Any, set[str]] = defaultdict(set)
    for run in runs:
        share = run.config.get("train_share", 1)
        part = None if share == 1 else (share, run.config.get("seed"))
        if data := (run.summary or {}).get("data_hash"):
            hashes[part].add(data)
    if any(len(of_part) > 1 for of_part in hashes.values()):
        found.append("the data differ between runs (summary.json, data_hash): a difference may come from them")
    return found


def _other_metric(job: Mapping[str, Any], metric: str) -> str:
    return f"{job['configuration']}, seed {job['seed']} has not measured {metric}: list it in eval.metrics"


def _value(summary: Mapping[str, Any], metric: str) -> float | None:
    """The test metric of the trained model; None if it was not measured."""
    return ((summary.get("metrics") or {}).get(RANKER) or {}).get(metric)


def _entry(
    name: str,
    found: Estimate | None,
    jobs: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    summaries: Mapping[str, Any],
    metric: str,
) -> dict[str, Any]:
    """The entry of a configuration: its estimate, its runs, and what it has cost."""
    own = [job for job in jobs if job["configuration"] == name]
    rows = [
        {"seed": job["seed"], "run": job["run"], "value": _value(summaries[job["run"]], metric)}
        | {key: summaries[job["run"]].get(key) for key in KEPT}
        for job in own
        if job in measured
    ]
    memory = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"] is not None]
    unfinished = [{key: job[key] for key in ("seed", "status", "error")} for job in own if job not in measured]
    return {
        "mean": found.interval.mean if found else None,
        "interval": [found.interval.low, found.interval.high] if found else None,
        "counts": found.counts if found else None,
        "spread": found.spread if found else None,
        "range": [found.lowest, found.highest] if found else None,
        **{key: _mean(row[key] for row in rows) for key in ("before", "best_dev", "seconds", "tokens_per_s")},
        "peak_memory_bytes": max(memory, default=None),
        "seeds": rows,
        "unfinished": unfinished,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _pair(difference: Difference) -> dict[str, Any]:
    test = asdict(difference.test)
    rest = {name: getattr(difference, name) for name in ("corrected", "counts", "seeds", "queries", "least")}
    return {"first": difference.first, "second": difference.second, **test, **rest}
