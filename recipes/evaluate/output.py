"""What an evaluation leaves on disk: the results, the values of each query, and the rankings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.formats.trec import write_trec_run
from recipes.evaluate.rankers import Measured
from runs.report.depth_page import write_depth_page
from runs.report.first_stages import sweeps_of

DEPTHS = ".depths.html"  # beside FILE.json, the picture of a depth sweep
QUERIES = ".queries.jsonl"  # beside FILE.json: {"query_id", ranker: {metric: value}}


def write_suite(output: str, summary: dict[str, Any]) -> None:
    """Write FILE.json of a suite. The files of its sets, FILE.SET.json and those beside, are there already."""
    Path(output).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def write_output(output: str, measured: Measured) -> None:
    """Write FILE.json, and beside it FILE.queries.jsonl and a TREC run of each ranker, FILE.RANKER.run."""
    path = Path(output)
    path.write_text(json.dumps(measured.summary, indent=1) + "\n", encoding="utf-8")
    if sweeps := sweeps_of(measured.summary):
        title = f"{measured.summary['name_or_path']} on {measured.summary['data']}"
        write_depth_page(title, sweeps, path.with_suffix(DEPTHS))
    if not measured.runs:
        return
    with path.with_suffix(QUERIES).open("w", encoding="utf-8") as file:
        for query in measured.qrels:
            values = {
                name: {metric: of_query[query] for metric, of_query in result.per_query.items()}
                for name, result in measured.results.items()
            }
            file.write(json.dumps({"query_id": query, **values}, ensure_ascii=False) + "\n")
    for name, run in measured.runs.items():
        write_trec_run(path.with_suffix(f".{name}.run"), run, tag=name)
