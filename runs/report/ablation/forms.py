"""How the configurations of an ablation do with shorter vectors and in fewer bits (`eval.dims`, `eval.precision`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runs.report.ablation.other_sets import cell_of
from runs.report.ablation.table import Cells, rows_of, shown_names
from runs.report.ablation.values import RANKER, compared, values_of_queries
from runs.stored_run import StoredRun

Job = Mapping[str, Any]  # of ablation.json


def results_of_forms(
    names: Sequence[str], jobs: Sequence[Job], runs: Mapping[str, StoredRun], metric: str, different: Sequence[str]
) -> dict[str, Any]:
    """By stored form ("dim64/int8"), what the finished `jobs` have measured: the content of `values.compared`.

    `names` are the configurations in their order; those that were not measured in a form are not in it. Holm's
    correction is for the pairs of one form. Nothing if only whole vectors were measured. `different`: as in `compared`.
    """
    jobs = sorted(jobs, key=lambda job: names.index(job["configuration"]))
    keys = dict.fromkeys(key for job in jobs for key in _metrics(runs[job["run"]]) if key.startswith(f"{metric}/"))
    queries = {job["run"]: runs[job["run"]].queries() for job in jobs} if keys else {}
    found = {}
    for key in keys:
        values: dict[str, dict[int, dict[str, float]]] = {}
        for job in jobs:
            if own := values_of_queries(queries[job["run"]], key):
                values.setdefault(job["configuration"], {})[job["seed"]] = own
        if values:
            found[key.removeprefix(f"{metric}/")] = compared(values, different)
    return found


def _metrics(run: StoredRun) -> Mapping[str, float]:
    """The test metrics of the trained model."""
    return ((run.summary or {}).get("metrics") or {}).get(RANKER) or {}


def forms_table(results: Mapping[str, Any]) -> tuple[list[str], Cells]:
    """A row for each form, a column for each configuration, in the order of the main table: mean, half of the 95%
    interval, and how it compares with the best in that form."""
    shown, rows = shown_names(results), rows_of(results)
    cells = [[form, *(cell_of(own, name) for name in rows)] for form, own in results["forms"].items()]
    return [f"{results['metric']} by stored form", *(f"{row} {shown[name]}" for name, row in rows.items())], cells


def about_forms(results: Mapping[str, Any]) -> list[str]:
    """What the table shows, and warnings."""
    forms = results.get("forms") or {}
    if not forms:
        return []
    warnings = [f"warning: {form}: {warning}" for form, own in forms.items() for warning in own["warnings"]]
    return [
        "by stored form: mean ± half of the 95% interval; best and tied are those of each form alone, so that with "
        "many forms a few differences are found by chance",
        *warnings,
    ]
