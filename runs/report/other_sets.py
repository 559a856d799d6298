"""What a run's summary says of the data sets of its `test_suite`, as table rows and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runs.report.table import aligned

COLUMNS = {"first_stage": "first stage", "before": "before", "after": "after"}  # key in summary.json -> column


def lines_of_other_sets(summary: Mapping[str, Any]) -> list[str]:
    """The table as text, and the notes; empty if the run has no such sets."""
    header, *rows = rows_of_other_sets(summary)
    if not rows:
        return []
    return ["other data sets (test_suite)", "", *aligned(header, rows), *notes_on_other_sets(summary)]


def rows_of_other_sets(summary: Mapping[str, Any]) -> list[list[str]]:
    """The header and a row for each set, with the chosen metric of each ranker; only the header if there are none."""
    sets, metric = summary.get("test_suite") or {}, summary["metric"]
    shown = {key: title for key, title in COLUMNS.items() if any(own[key] for own in sets.values())}
    rows = [[metric, "queries", *shown.values()]]
    for name, own in sets.items():
        values = (f"{own[key][metric]:.4f}" if own[key] else "-" for key in shown)
        rows.append([f"{name}{' (partial)' * ('partial' in own)}", f"{own['queries']:,}", *values])
    return rows


def notes_on_other_sets(summary: Mapping[str, Any]) -> list[str]:
    """A line for each set whose queries the run has too, or of which only a part of the corpus was searched."""
    lines = []
    for name, own in (summary.get("test_suite") or {}).items():
        if part := own.get("partial"):
            searched = f"{part['documents']:,} of {part['of']:,} documents"
            lines.append(f"{name}: partial: {searched}; values are higher than over the whole")
        lines += [f"{name}: {own['note']}"] * bool(own["note"])
    return lines
