"""The results of an ablation, from what its finished jobs have left on disk: the "results" of ablation.json."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from evaluation.ablation import Estimate, best_of, compare, estimate, shared_queries, tied_with
from runs.report.ablation.forms import results_of_forms
from runs.report.ablation.other_sets import results_on_sets
from runs.report.ablation.search import search_results
from runs.report.ablation.values import (
    RANKER,
    about_queries,
    mean_of,
    number_of_queries,
    on_queries,
    pair_entry,
    values_of_queries,
)
from runs.report.searched import about_searched
from runs.stored_run import StoredRun

Job = Mapping[str, Any]  # of ablation.json
COSTS = ("seconds", "tokens_per_s", "peak_memory_bytes")
OF_METRIC = ("before", "first_stage", "best_dev")  # of a run's summary, by the run's own metric
KEPT = (*OF_METRIC, "best_step", *COSTS)
ALL = "all "  # the beginning of the name of the one "query" of runs that have no values of single queries
NAMED = 6  # configurations in a warning, at most


def ablation_results(folder: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of the finished jobs of `plan`, the content of ablation.json in `folder`; None if there is none.

    "configurations" has, by name, the mean over seeds and test queries with interval and spread, the values of each
    seed, the cost, and the jobs that are not finished. "pairs" are the tests of all pairs
    (`evaluation.ablation.compare`), "best" the configuration with the highest mean (of a search: the highest value on
    dev), "tied" those that no test tells apart from it, "least" the median over pairs of the smallest difference that
    could be told, "left_out" the configurations whose seeds count in their own pairs alone, since they vary far more.
    No pairs and no best one (but of a search) if runs searched different documents, or share no query.
    "test_suite" has the same of each set on which the runs were measured too (`other_sets.results_on_sets`), "forms"
    that of shorter vectors and fewer bits (`forms.results_of_forms`).

    Raises ValueError, in one line, if a run's files are broken.
    """
    finished = [job for job in plan["jobs"] if job["status"] == "finished"]
    if not finished:
        return None
    names = [configuration["name"] for configuration in plan["configurations"]]
    runs = {job["run"]: StoredRun.read(folder / job["run"]) for job in finished}
    summaries: dict[str, Mapping[str, Any]] = {run: stored.summary or {} for run, stored in runs.items()}
    metric = str(next(iter(summaries.values()))["metric"])
    measured: Sequence[Job] = [job for job in finished if _value(summaries[job["run"]], metric) is not None]
    warnings = [_other_metric(job, metric) for job in finished if job not in measured]
    warnings += _about_dev(measured, summaries, metric)
    summaries = {run: _of_metric(summary, metric) for run, summary in summaries.items()}
    queries = {job["run"]: runs[job["run"]].queries() for job in measured}
    values, measured, about_values = _values(measured, queries, summaries, metric)
    values = {name: values[name] for name in names if name in values}
    shared, total = shared_queries(values), number_of_queries(values)
    different = about_searched((job["configuration"], summaries[job["run"]]) for job in measured)
    warnings += [*different, *about_values, *about_queries(len(shared), total), *_about_sources(list(runs.values()))]
    common = on_queries(values, shared) if shared else values
    estimates = {name: estimate(seeds) for name, seeds in common.items() if shared_queries({name: seeds})}
    alike = bool(shared) and not different
    differences = compare(common) if alike else []
    if shared and len(shared) < total:
        summaries |= {run: {**summaries[run], **_on_shared(own, shared, metric)} for run, own in queries.items()}
    entries = {name: _entry(name, estimates.get(name), plan["jobs"], measured, summaries, metric) for name in names}
    search = search_results(folder, plan, entries)
    scores = {
        name: search["dev"][name] if search else each.interval.mean
        for name, each in estimates.items()
        if not search or name in search["dev"]
    }
    best = best_of(scores) if scores and (alike or search or len(scores) == 1) else None
    return {
        "metric": metric,
        "queries": 0 if shared and shared[0].startswith(ALL) else len(shared),
        "best": best,
        "tied": tied_with(best, list(estimates), differences) if best else [],
        "first_stage": mean_of(summaries[job["run"]].get("first_stage") for job in measured),
        "least": median(each.least for each in differences) if differences else None,
        "configurations": entries,
        "pairs": [pair_entry(each) for each in differences],
        "left_out": list(dict.fromkeys(name for each in differences for name in each.left_out)),
        "test_suite": results_on_sets(names, finished, runs, metric),
        "forms": results_of_forms(names, measured, runs, metric, different),
        "search": search,
        "warnings": warnings,
    }


def _on_shared(queries: Mapping[str, Any], shared: Sequence[str], metric: str) -> dict[str, float]:
    """The values before training and of the first stage on the queries that all runs have, of those that are stored."""
    found = {ranker: values_of_queries(queries, metric, ranker) for ranker in ("before", "first_stage")}
    return {ranker: fmean(own[query] for query in shared) for ranker, own in found.items() if own.keys() >= {*shared}}


def _values(
    jobs: Sequence[Job], queries: Mapping[str, Any], summaries: Mapping[str, Any], metric: str
) -> tuple[dict[str, dict[int, dict[str, float]]], Sequence[Job], list[str]]:
    """The values of each configuration by seed and query, the jobs that have them, and what is to be said. A query is
    its id with its text, since other data have other queries of the same id. If no run has stored queries, the mean of
    each is its only value, else those without are left out."""
    known = {job["run"]: values_of_queries(queries[job["run"]], metric) for job in jobs}
    kept = [job for job in jobs if known[job["run"]]]
    said = [f"{_label(job)} has no values of single queries: it is left out" for job in jobs if job not in kept]
    if not kept:
        kept, said = list(jobs), _about_means(jobs, summaries)
        for job in kept:
            summary = summaries[job["run"]]
            known[job["run"]] = {f"{ALL}{summary.get('test_pairs')}": _value(summary, metric) or 0.0}
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for job in kept:
        found[job["configuration"]][job["seed"]] = known[job["run"]]
    return dict(found), kept, said


def _about_means(jobs: Sequence[Job], summaries: Mapping[str, Any]) -> list[str]:
    """What is to be said of runs that have no values of single queries."""
    said = ["the runs have no values of single queries: seeds alone are counted"] if jobs else []
    data: dict[str, str] = {}
    for job in jobs:
        summary = summaries[job["run"]]
        data.setdefault(str(summary.get("whole_data_hash") or summary.get("data_hash")), _label(job))
    if len(data) > 1:
        first, second = list(data.values())[:2]
        said.append(
            f"the data differ ({first}; {second}): they are compared only if their test pairs are the same ones"
        )
    return said


def _label(job: Job) -> str:
    return f"{job['configuration']}, seed {job['seed']}"


def _of_metric(summary: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    """The summary without the values of another metric."""
    return summary if summary.get("metric") == metric else {**summary, **dict.fromkeys(OF_METRIC)}


def _about_dev(jobs: Sequence[Job], summaries: Mapping[str, Any], metric: str) -> list[str]:
    others = {job["configuration"]: str(summaries[job["run"]].get("metric")) for job in jobs}
    named = [f"{name} ({other})" for name, other in others.items() if other != metric]
    more = f" and {len(named) - NAMED} more" * (len(named) > NAMED)
    said = f"dev values of another metric than {metric} are left out: {', '.join(named[:NAMED])}{more}"
    return [said] if named else []


def _about_sources(runs: Sequence[StoredRun]) -> list[str]:
    """Whether the runs were trained by different code, or on data that differ though their settings of data, and the
    share that the seed draws, are the same."""
    found = []
    if len({run.environment["code_hash"] for run in runs if run.environment.get("code_hash")}) > 1:
        found.append("the code differs between runs (environment.json, code_hash): a difference may come from it")
    hashes: dict[Any, set[str]] = defaultdict(set)
    for run in runs:
        share = run.config.get("train_share", 1)
        part = None if share == 1 else (share, run.config.get("seed"))
        if data := (run.summary or {}).get("data_hash"):
            hashes[part, _data_settings(run.config)].add(data)
    if any(len(of_part) > 1 for of_part in hashes.values()):
        found.append("the data differ between runs (summary.json, data_hash): a difference may come from them")
    return found


def _data_settings(config: Mapping[str, Any]) -> str:
    """The settings of the data of a run, and of its stages that have their own."""
    stages = {name: (config.get("stage") or {}).get(name, {}).get("data") for name in config.get("stages") or []}
    return json.dumps([config.get("data"), stages], sort_keys=True, default=str)


def _other_metric(job: Job, metric: str) -> str:
    return f"{_label(job)} has not measured {metric}: list it in eval.metrics"


def _value(summary: Mapping[str, Any], metric: str) -> float | None:
    """The test metric of the trained model; None if it was not measured."""
    return ((summary.get("metrics") or {}).get(RANKER) or {}).get(metric)


def _entry(
    name: str,
    found: Estimate | None,
    jobs: Sequence[Job],
    measured: Sequence[Job],
    summaries: Mapping[str, Any],
    metric: str,
) -> dict[str, Any]:
    """The entry of a configuration: its estimate, its runs, and what it has cost."""
    own = [job for job in jobs if job["configuration"] == name]
    rows = [
        {"seed": job["seed"], "run": job["run"], "value": _value(summaries[job["run"]], metric)}
        | {key: summaries[job["run"]].get(key) for key in KEPT}
        | {"stopped_at": summaries[job["run"]]["steps"] if summaries[job["run"]].get("stopped_early") else None}
        for job in own
        if job in measured
    ]
    after = [(summaries[row["run"]].get("metrics") or {}).get(RANKER) or {} for row in rows]
    memory = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"] is not None]
    unfinished = [{key: job[key] for key in ("seed", "status", "error")} for job in own if job not in measured]
    return {
        "mean": found.interval.mean if found else None,
        "interval": [found.interval.low, found.interval.high] if found else None,
        "counts": found.counts if found else None,
        "spread": found.spread if found else None,
        "range": [found.lowest, found.highest] if found else None,
        **{key: mean_of(row[key] for row in rows) for key in ("before", "best_dev", "seconds", "tokens_per_s")},
        "metrics": {key: mean_of(own.get(key) for own in after) for key in (after[0] if after else ())},
        "peak_memory_bytes": max(memory, default=None),
        "seeds": rows,
        "unfinished": unfinished,
    }
