"""The results of a run as table rows and sentences, for the terminal, the HTML page and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.truncation import line_of_summary
from evaluation.significance import PairedTest
from runs.report.costs import cost_lines, duration, form_table, index_lines
from runs.report.depths import lines_of_sweep
from runs.report.first_stages import lines_of_first_stages, rows_of_first_stages, sweeps_of
from runs.report.other_sets import lines_of_other_sets
from runs.report.table import ORACLE, below_first_stage, below_start, format_table

RANKERS = {  # key in summary.json -> row of the table; "bm25" and "model" come from launch/evaluate.py
    "bm25": "BM25",
    "first_stage": "first stage",
    "before": "before",
    "model": "model",
    "after": "after",
    "fused": "fused",
    "against": "other run",
}
STORED = "/"  # in names of metrics of vectors in fewer dimensions or bits: "nDCG@10/dim128", "nDCG@10/dim128/int8"


def print_table(summary: Mapping[str, Any]) -> None:
    """Print the test results of a summary.json: a table of rankers by metrics, then remarks."""
    print(format_table(result_rows(summary)))
    for remark in remarks(summary):
        print(remark)
    for lines in further_lines(summary):
        print("", *lines, sep="\n")


def further_lines(summary: Mapping[str, Any]) -> list[list[str]]:
    """The paragraphs below the remarks: other data sets, stored forms, cost, and each depth sweep."""
    sweeps = [lines_of_sweep(name, sweep) for name, sweep in sweeps_of(summary).items()]
    sets = lines_of_other_sets(summary)
    return [lines for lines in (sets, form_table(summary), index_lines(summary), cost_lines(summary), *sweeps) if lines]


def result_rows(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of each ranker in a summary: all of them if it has `metrics`, else the chosen one; then the
    oracle."""
    if summary.get("first_stages"):
        return rows_of_first_stages(summary)
    all_metrics = summary.get("metrics") or {}
    rows: dict[str, dict[str, float]] = {}
    for key, name in RANKERS.items():
        if key == "after":
            for stage in (summary.get("stages") or ())[:-1]:  # the last one is the row `after` itself
                rows |= by_stored_form(f"after {stage['name']}", stage["metrics"])
        if summary.get(key) is not None:
            rows |= by_stored_form(name, all_metrics.get(key) or {summary["metric"]: summary[key]})
    return rows | ({ORACLE: summary["ceiling"]} if summary.get("ceiling") else {})


def stage_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The header and the rows of the table of stages, with the start as a row; only the header if there are fewer than
    two stages."""
    stages, metric = summary.get("stages") or (), summary["metric"]
    rows = [["stage", "steps", "best step", f"dev {metric}, best", f"test {metric}, after", "training"]]
    if len(stages) < 2:
        return rows
    rows.append(["start", "", "", "", f"{summary['before']:.4f}", ""])
    for stage in stages:
        best, dev = stage["best_step"], stage["best_dev"]
        steps = [f"{stage['steps']:,}", "" if best is None else f"{best:,}" if best > 0 else "its start"]
        measured = ["" if dev is None else f"{dev:.4f}", f"{stage['metric']:.4f}"]
        rows.append([stage["name"], *steps, *measured, duration(stage["seconds"])])
    return rows


def number_of_tests(summary: Mapping[str, Any], which: str = "test ") -> str:
    """The number of queries, or of pairs if these are scored and not ranked: "1,379 test pairs". If only a part of the
    corpus was searched, it says so."""
    if summary.get("test_pairs"):
        return f"{summary['test_pairs']:,} {which}pairs"
    queries, part = f"{summary['test_queries']:,} {which}queries", summary.get("partial")
    if not part:
        return queries
    searched = f"{part['documents']:,} of {part['of']:,} documents"
    return f"{queries}, partial: {searched}; values are higher than over the whole"


def by_stored_form(name: str, metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The row of a ranker, and one for each number of dimensions and precision: "MAP/dim64/int8" becomes MAP in row
    "after, dim 64, int8"."""
    rows: dict[str, dict[str, float]] = {}
    for metric, value in metrics.items():
        plain, _, form = metric.partition(STORED)
        rows.setdefault(f"{name}, {form_in_words(form)}" if form else name, {})[plain] = value
    return rows


def form_in_words(form: str) -> str:
    """ "dim64/int8" -> "dim 64, int8"."""
    return ", ".join(part.replace("dim", "dim ") for part in form.split(STORED))


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """Sentences about the results: queries, recall of the candidates, fusion weight, paired tests, notes, warnings."""
    recall, weight = summary.get("recall_ceiling"), summary.get("fusion_weight")
    several = bool(summary.get("first_stages"))
    own_tests = {} if several else summary.get("tests") or {}
    tests = {test_in_words(name): PairedTest(**test) for name, test in own_tests.items()}
    first_stage = RANKERS["bm25" if "bm25" in summary else "first_stage"]
    lines = [
        number_of_tests(summary, "") if summary.get("test_queries") else "",
        _about_first_stage(summary),
        f"{recall:.1%} of the relevant documents are among the candidates" if recall is not None else "",
        f"fused: {weight:.2f} model + {1 - weight:.2f} {first_stage} (z-scores)" if weight is not None else "",
        _intervals(summary),
        *(f"{summary['metric']}, {name}: {test}" for name, test in tests.items()),
        *(lines_of_first_stages(summary) if several else ()),
        *_against(summary),
        *_notes_on_early_ends(summary),
        *_notes_on_unbeaten_starts(summary),
        below_start(result_rows(summary), summary["metric"]) or "",
        "" if several else below_first_stage(result_rows(summary), summary["metric"]) or "",
        line_of_summary(summary["truncated"]) if summary.get("truncated") else "",
        *(f"warning: {warning}" for warning in summary.get("warnings") or ()),
    ]
    return [line for line in lines if line]


def _intervals(summary: Mapping[str, Any]) -> str:
    """The line of the 95% intervals of the chosen metric, of an evaluation."""
    metric = summary["metric"]
    bounds = {name: own[metric] for name, own in (summary.get("intervals") or {}).items()}
    parts = (f"{RANKERS.get(name, name)} [{low:.4f}, {high:.4f}]" for name, (low, high) in bounds.items())
    return f"{metric}, 95% intervals over queries: {', '.join(parts)}" if bounds else ""


def _against(summary: Mapping[str, Any]) -> list[str]:
    """The paired tests against another run."""
    tests = summary.get("tests_against") or {}
    if not tests:
        return []
    lines = [f"{metric}, against the other run: {PairedTest(**test)}" for metric, test in tests.items()]
    several = f" (p with Holm's correction for {len(tests)} metrics)" if len(tests) > 1 else ""
    return [f"other run: {summary['against_path']}{several}", *lines]


def _about_first_stage(summary: Mapping[str, Any]) -> str:
    """The line on where the first stage's scores come from if no search gave them, or on why there is no first
    stage."""
    if source := summary.get("first_stage_source"):
        return f"first stage: {source}"
    if summary.get("test_pairs") or "first_stage" not in summary or summary["first_stage"] is not None:
        return ""
    if summary.get("recall_ceiling") is None:  # no candidates
        return (
            "no first stage: the whole corpus is searched, and the documents that the data list with a query are no "
            "ranking of it (launch/evaluate.py with data=file compares with BM25)"
        )
    return "no first stage: each query's candidates are the documents that the data list with it"


def _notes_on_unbeaten_starts(summary: Mapping[str, Any]) -> list[str]:
    """A note for every training (of the run or of a stage) that did not improve on dev."""
    stages = summary.get("stages") or ()
    if len(stages) < 2:
        note = "note: no checkpoint beat the starting model on dev, so the starting model is exported"
        if best := summary.get("best_step"):  # not 0: with advice, the run started from a checkpoint
            note = f"note: no checkpoint after the one that it started from beat step {best} on dev, which is exported"
        return [note, summary.get("advice") or ""] if best == 0 or summary.get("advice") else []
    return [
        line
        for stage in stages
        if stage["best_step"] == 0
        for line in (
            f"note: in stage {stage['name']} no checkpoint beat its start on dev, so it passes on its starting model",
            f"stage {stage['name']}: {stage['advice']}" if stage.get("advice") else "",
        )
    ]


def _notes_on_early_ends(summary: Mapping[str, Any]) -> list[str]:
    """A note for every training (of the run or of a stage) that evaluations on dev have ended."""
    stages = summary.get("stages") or ()
    trainings = {f" of stage {stage['name']}": stage for stage in stages} if len(stages) > 1 else {"": summary}
    return [
        f"note: training{name} ended early, at step {own['steps']} of {own['max_steps']}: "
        f"no evaluation on dev after that of step {own['best_step']} was better (trainer.early_stopping_patience)"
        for name, own in trainings.items()
        if own.get("stopped_early")
    ]


def test_in_words(key: str) -> str:
    """The words for a test's key: "after_vs_first_stage" -> "after vs first stage"."""
    return " vs ".join(RANKERS.get(side, side) for side in key.split("_vs_"))
