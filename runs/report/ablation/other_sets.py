"""How the configurations of an ablation do on the data sets of its runs' `test_suite`: results, table, sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runs.report.ablation.table import NONE, Cells, rows_of, shown_names, verdict
from runs.report.ablation.values import compared, mean_of, values_of_queries
from runs.report.searched import about_searched
from runs.stored_run import StoredRun

Job = Mapping[str, Any]  # of ablation.json


def results_on_sets(
    names: Sequence[str], jobs: Sequence[Job], runs: Mapping[str, StoredRun], metric: str
) -> dict[str, Any]:
    """By set, what the finished `jobs` have measured on it: {"metric", "queries", "first_stage", "best", "tied",
    "configurations": {name: {"mean", "low", "high", "std", "seeds": {seed: value}}}, "pairs", "warnings"}.

    `names` are the configurations in their order; those without a value on a set are not in it. The statistics are
    those of the run's own test, set by set: Holm's correction is for the pairs of one set. A set without a value is
    left out; nothing if the runs have no `test_suite`.
    """
    sets = dict.fromkeys(name for job in jobs for name in (runs[job["run"]].summary or {}).get("test_suite") or ())
    results = {name: _of_set(name, names, jobs, runs, metric) for name in sets}
    return {name: own for name, own in results.items() if own is not None}


def _of_set(
    name: str, names: Sequence[str], jobs: Sequence[Job], runs: Mapping[str, StoredRun], metric: str
) -> dict[str, Any] | None:
    values: dict[str, dict[int, dict[str, float]]] = {}
    first_stages: list[float | None] = []
    notes: list[str] = []
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for job in sorted(jobs, key=lambda job: names.index(job["configuration"])):
        own = values_of_queries(runs[job["run"]].queries_of(name), metric)
        if not own:
            continue
        values.setdefault(job["configuration"], {})[job["seed"]] = own
        entry = (runs[job["run"]].summary or {})["test_suite"][name]
        first_stages.append((entry["first_stage"] or {}).get(metric))
        notes += [entry["note"]] * bool(entry["note"])
        entries.append((job["configuration"], entry))
    if not values:
        return None
    found = compared(values, about_searched(entries))
    return {
        **found,
        "metric": metric,
        "first_stage": mean_of(first_stages),
        "warnings": [*dict.fromkeys(notes), *found["warnings"]],
    }


def sets_table(results: Mapping[str, Any]) -> tuple[list[str], Cells]:
    """The configurations in the order of the main table, with a column for each set: mean, half of the 95% interval,
    and how it compares with the best on that set. The first stage is the last row."""
    sets, shown = results["test_suite"], shown_names(results)
    cells = [
        [f"{row} {shown[name]}", *(cell_of(own, name) for own in sets.values())]
        for name, row in rows_of(results).items()
    ]
    if any(own["first_stage"] is not None for own in sets.values()):
        values = (own["first_stage"] for own in sets.values())
        cells.append(["first stage", *(NONE if value is None else f"{value:.4f}" for value in values)])
    cells.append(["queries", *(f"{own['queries']:,}" for own in sets.values())])
    return [f"{results['metric']} on other data", *sets], cells


def cell_of(own: Mapping[str, Any], name: str) -> str:
    """Mean, half of the 95% interval, and how a configuration compares with the best one of these results."""
    entry = own["configurations"].get(name)
    if entry is None:
        return NONE
    said = verdict(own, name) if len(own["configurations"]) > 1 and own["best"] is not None else ""
    return f"{entry['mean']:.4f} ± {(entry['high'] - entry['low']) / 2:.4f} {said}".rstrip()


def about_sets(results: Mapping[str, Any]) -> list[str]:
    """What the table shows, the sets on which the best configuration is not the best, and warnings."""
    sets = results.get("test_suite") or {}
    if not sets:
        return []
    lines = ["on other data: mean ± half of the 95% interval; best and tied are those of each set alone"]
    for name, own in sets.items():
        best = results["best"]
        if own["best"] is not None and best in own["configurations"] and best not in own["tied"]:
            lines.append(f"on {name} {shown_names(results)[own['best']]} is better than the best on the runs' own test")
        lines += [f"warning: {name}: {warning}" for warning in own["warnings"]]
    return lines
