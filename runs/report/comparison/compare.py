"""Everything that is said about some runs, from their files."""

from __future__ import annotations

from collections.abc import Sequence

from runs.report.comparison.content import Comparison
from runs.report.comparison.curves import pictures_of
from runs.report.comparison.differences import fact_tables, warnings_about
from runs.report.comparison.queries import compare_queries
from runs.report.comparison.rankings import rankings_of
from runs.report.comparison.results import result_tables
from runs.report.comparison.selection import FINISHED, ShownRun


def compare(runs: Sequence[ShownRun], pair: Sequence[str] = ()) -> Comparison:
    """Compare runs. The first one is what the others are tested against. `pair`: the configurations of an ablation
    whose wins and losses are shown at first."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    rankings = {run.number: rankings_of(run, run.metric) for run in runs if run.queries and run.metric}
    pictures, notes = pictures_of(runs)
    unfinished = sum(run.status != FINISHED for run in runs)
    lead = f"{len(runs)} run{'s' * (len(runs) != 1)}" + f", {unfinished} not finished" * bool(unfinished)
    return Comparison(
        title=title,
        lead=lead,
        legend={run.number: run.name for run in runs},
        warnings=warnings_about(runs),
        results=result_tables(runs, rankings),
        pictures=pictures,
        picture_notes=notes,
        queries=compare_queries(runs, pair),
        facts=fact_tables(runs),
    )
