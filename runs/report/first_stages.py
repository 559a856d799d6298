"""The results of a reranker behind several first stages, as rows and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.significance import PairedTest

STEPS = {"first_stage": "", "model": ", reranked", "fused": ", fused"}  # key -> what is added to the first stage's name


def rows_of_first_stages(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of each first stage, of its candidates reranked, fused, and in the best possible order."""
    rows: dict[str, dict[str, float]] = {}
    for name, own in summary["first_stages"].items():
        rows |= {f"{name}{STEPS[key]}": values for key, values in own["metrics"].items()}
        rows[f"{name}, oracle"] = own["ceiling"]
    return rows


def lines_of_first_stages(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on the candidates, the fusion, the intervals and the paired tests of each first stage."""
    lines = []
    for name, own in summary["first_stages"].items():
        weight = own["fusion_weight"]
        fused = "" if weight is None else f"; fused: {weight:.2f} model + {1 - weight:.2f} first stage (z-scores)"
        found = f"{own['recall_ceiling']:.1%} of the relevant documents are among the candidates"
        lines.append(f"{name} ({own['from']}): {found}{fused}")
    metric = summary["metric"]
    for name, own in summary["first_stages"].items():
        bounds = {f"{name}{STEPS[key]}": of_metric[metric] for key, of_metric in own["intervals"].items()}
        parts = (f"{row} [{low:.4f}, {high:.4f}]" for row, (low, high) in bounds.items())
        lines.append(f"{metric}, 95% intervals over queries: {'; '.join(parts)}")
    tests = {name: PairedTest(**test) for name, test in summary["tests"].items()}
    lines.append("paired tests" + f" (p with Holm's correction for {len(tests)} tests)" * (len(tests) > 1) + ":")
    lines += [f"{metric}, {_in_words(name)}: {test}" for name, test in tests.items()]
    scored, asked = summary["pairs_scored"], summary["pairs_of_all_first_stages"]
    lines.append(
        f"{scored:,} pairs of query and document were scored once for {asked:,} candidates of all first stages"
    )
    return [*lines, *_warnings(summary)]


def sweeps_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The depth sweeps of a summary by the name of the first stage; "first stage" if there is one without a name."""
    if own := summary.get("depth_sweep"):
        return {"first stage": own}
    stages = summary.get("first_stages") or {}
    return {name: own["depth_sweep"] for name, own in stages.items() if "depth_sweep" in own}


def _in_words(test: str) -> str:
    """ "bm25.model_vs_bm25.first_stage" -> "bm25, reranked vs bm25"."""
    return " vs ".join(name + STEPS[key] for name, _, key in (side.rpartition(".") for side in test.split("_vs_")))


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    metric, lines = summary["metric"], []
    for name, own in summary["first_stages"].items():
        first, model = own["metrics"]["first_stage"][metric], own["metrics"]["model"][metric]
        if model < first:
            lines.append(
                f"warning: reranked from {name} the model ranks worse than {name} ({metric} {model:.4f} < "
                f"{first:.4f}): rerank fewer candidates (eval.depths compares depths), or train longer"
            )
    return lines
