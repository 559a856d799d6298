"""The end of every run, with any trainer: write the report and the summary, print the results, upload."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.formats.trec import read_run
from engines.distributed import process_group
from evaluation.evaluator import EvaluationResult, Evaluator
from evaluation.metrics import Metrics
from models.export.hub import push_to_hub
from runs.directory import RunDirectory
from runs.report.content import print_table
from runs.report.html import write_report
from runs.report.queries import write_all_queries, write_queries
from runs.stored_run import QUERIES

logger = logging.getLogger(__name__)


def write_results(
    run: RunDirectory,
    test: Evaluator,
    results: Mapping[str, Metrics],
    after: EvaluationResult,
    summary: Mapping[str, Any],
) -> None:
    """Write queries.json and runs/queries.jsonl (of a ranking), report.html and summary.json. `results` are those on
    test by ranker, with `before` of the starting model; `after` is that of the trained one. Call it on all ranks."""
    if process_group.is_main():
        if test.config.ranks:
            write_queries(run.path / "queries.json", test, results["before"], after)
            before = read_run(run.path / "runs" / "before.run")  # it may be from before the run was interrupted
            write_all_queries(run.path / QUERIES, test, results, {"before": before, "after": after.run})
        write_report(run.path, summary)
    run.write_summary(summary)  # last: from now on the run counts as finished


def print_results(run: RunDirectory, summary: Mapping[str, Any]) -> None:
    """Print the results of a run that has just ended, and the paths of its model and report."""
    if process_group.is_main():
        print_table(summary)
        print(f"model: {run.path / 'model'}   report: {run.path / 'report.html'}")


def show_finished(run: RunDirectory) -> dict[str, Any]:
    """Print the results of a run that was finished earlier. Returns its summary."""
    assert run.summary is not None
    if process_group.is_main():
        print(f"{run.path} is finished ({run.summary['steps']} steps); resume=none trains it again")
        print_table(run.summary)
    return run.summary


def upload(folder: Path, name: str | None) -> None:
    """Upload the model to the hub if `name` is given. A failed upload is a warning: the run stays finished. Call it on
    all ranks."""
    if name is None:
        return
    if process_group.is_main():
        try:
            print(f"uploaded: {push_to_hub(folder, name)}")
        except ValueError as error:
            logger.warning("%s is not uploaded (the same command tries again): %s", folder, error)
    process_group.barrier()  # srun ends the node of rank 0 some minutes after the others have left
