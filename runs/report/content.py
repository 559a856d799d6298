"""What the results of a run say, as rows and sentences: for the terminal, the HTML page and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.significance import PairedTest
from runs.report.table import ORACLE, below_first_stage, format_table

RANKERS = {  # key in summary.json -> row of the table; "bm25" and "model" are those of launch/evaluate.py
    "bm25": "BM25",
    "first_stage": "first stage",
    "before": "before",
    "model": "model",
    "after": "after",
    "fused": "fused",
}
DIM = "/dim"  # in the names of metrics by the first dimensions: "nDCG@10/dim128"


def print_table(summary: Mapping[str, Any]) -> None:
    """Print a summary.json's results on test: rankers by metrics, then what there is to say about them."""
    print(format_table(result_rows(summary)))
    for remark in remarks(summary):
        print(remark)


def result_rows(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The rankers of a summary with their metrics: all of them (`metrics`), else the chosen one; then the oracle."""
    every = summary.get("metrics") or {}
    rows: dict[str, dict[str, float]] = {}
    for key, name in RANKERS.items():
        if key == "after":
            for stage in (summary.get("stages") or ())[:-1]:  # the last one is the row `after` itself
                rows |= by_dimension(f"after {stage['name']}", stage["metrics"])
        if summary.get(key) is not None:
            rows |= by_dimension(name, every.get(key) or {summary["metric"]: summary[key]})
    return rows | ({ORACLE: summary["ceiling"]} if summary.get("ceiling") else {})


def by_dimension(name: str, metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The row of a ranker, and one for each number of first dimensions: "MAP/dim64" is MAP of row "after, dim 64"."""
    rows: dict[str, dict[str, float]] = {}
    for metric, value in metrics.items():
        plain, _, dim = metric.partition(DIM)
        rows.setdefault(f"{name}, dim {dim}" if dim else name, {})[plain] = value
    return rows


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """Sentences about the results: queries, recall of the candidates, fusion weight, paired tests, notes, a warning."""
    queries, recall, weight = (summary.get(key) for key in ("test_queries", "recall_ceiling", "fusion_weight"))
    tests = {_test_name(name): PairedTest(**test) for name, test in (summary.get("tests") or {}).items()}
    first_stage = RANKERS["bm25" if "bm25" in summary else "first_stage"]
    lines = [
        f"{queries:,} queries" if queries else "",
        f"{recall:.1%} of the relevant documents are among the candidates" if recall is not None else "",
        f"fused: {weight:.2f} model + {1 - weight:.2f} {first_stage} (z-scores)" if weight is not None else "",
        *(f"{summary['metric']}, {name}: {test}" for name, test in tests.items()),
        *_unbeaten(summary),
        below_first_stage(result_rows(summary), summary["metric"]) or "",
        *(f"warning: {warning}" for warning in summary.get("warnings") or ()),
    ]
    return [line for line in lines if line]


def _unbeaten(summary: Mapping[str, Any]) -> list[str]:
    """A note for every training that has left the model that it started from."""
    stages = summary.get("stages") or ()
    if len(stages) < 2:
        unbeaten = "note: no checkpoint beat the starting model on dev, which is what is exported"
        return [unbeaten] if summary.get("best_step") == 0 else []
    return [
        f"note: in stage {stage['name']} no checkpoint beat its start on dev, which it has passed on"
        for stage in stages
        if stage["best_step"] == 0
    ]


def _test_name(key: str) -> str:
    """ "after_vs_first_stage" -> "after vs first stage"."""
    return " vs ".join(RANKERS.get(side, side) for side in key.split("_vs_"))
