"""The part of a page that shows the results of an ablation: sentences, tables and pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runs.files import read_json, write_atomic
from runs.report.ablation.forms import forms_table
from runs.report.ablation.other_sets import sets_table
from runs.report.ablation.pictures import figures_of
from runs.report.ablation.results import ablation_results
from runs.report.ablation.sentences import sentences
from runs.report.ablation.table import Cells, in_order, main_table, pairs_table, unfinished_table
from runs.report.comparison.compare import compare
from runs.report.comparison.content import Table
from runs.report.comparison.page import page
from runs.report.comparison.selection import ABLATION, select
from runs.report.html import table_of

PAGE = "ablation.html"
SHORT = 16  # characters of a name that fits beside the other columns on a phone
STYLES = {"best": "relevant", "tied": "", "worse": "down", "failed": "error"}  # words of a cell -> its class


def write_ablation_page(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write ablation.html into the folder of an ablation: what was found, then all runs as in a report of several runs.
    Raises ValueError if a run's files are broken, OSError if the page cannot be written."""
    comparison = compare(select([folder]), first_pair([plan]))
    comparison = replace(comparison, title=plan["name"], opening=ablation_part(plan))
    write_atomic(folder / PAGE, page(comparison))


def plans_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The content of ablation.json of the ablations among `paths`, with the results of what has finished by now. Raises
    ValueError if one has no jobs."""
    plans = []
    for folder in paths:
        if (folder / ABLATION).is_file():
            plan = read_json(folder / ABLATION)
            if not plan["jobs"]:
                raise ValueError(f"{folder}: the ablation has no jobs yet: wait until its first run has started")
            plans.append({**plan, "results": ablation_results(folder, plan)})
    return plans


def first_pair(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The configurations whose wins and losses are shown at first: the baseline and the best one, or the best two."""
    if not plans or not (results := plans[0]["results"]) or results["best"] is None:
        return []
    baseline, best = plans[0]["baseline"], results["best"]
    if baseline != best and baseline in results["configurations"]:
        return [baseline, best]
    return [best, *[name for name in in_order(results) if name != best][:1]]


def tables_of(plans: Sequence[Mapping[str, Any]]) -> list[Table]:
    """What the parts say as tables of texts, for a report that has no HTML."""
    tables = []
    for plan in plans:
        header, rows = main_table(plan) if plan["results"] else ([], [])
        pictures = [f"Its pictures (seeds with intervals, a search by setting) are in {PAGE}."] if rows else []
        tables.append(Table(f"Ablation {plan['name']}", header, rows, [*sentences(plan), *pictures]))
        if rows and plan["results"]["test_suite"]:
            tables.append(Table(f"Ablation {plan['name']}, other data sets", *sets_table(plan["results"]), []))
        if rows and plan["results"].get("forms"):
            tables.append(Table(f"Ablation {plan['name']}, stored forms", *forms_table(plan["results"]), []))
    return tables


def ablation_part(plan: Mapping[str, Any]) -> list[str]:
    """The parts of a page, as HTML, about an ablation (the content of ablation.json): what was found, the table of its
    configurations, pictures, all pairs, the jobs without a result, and the settings of each configuration."""
    results = plan["results"]
    said = "".join(
        f'<p class="{"warning" if line.startswith("warning") else "lead"}">{html.escape(line)}</p>\n'
        for line in sentences(plan)
    )
    parts = [f"<h2>Ablation</h2>\n{said}"]
    if results:
        parts.append(_section("Trials" if results["search"] else "Configurations", *main_table(plan)))
        if results.get("test_suite"):
            parts.append(_section("Other data sets", *sets_table(results)))
        if results.get("forms"):
            parts.append(_section("Stored forms", *forms_table(results)))
        first, *others = figures_of(results) or [""]
        parts.append(f'<h2>Pictures</h2>\n<div style="max-width: 40rem">{first}</div>')
        width = "; max-width: 34rem" if len(others) == 1 else ""
        parts.append(f'<div class="curves" style="margin-top: 1.5rem{width}">{"".join(others)}</div>' if others else "")
        parts.append(_section("All pairs", *pairs_table(results), is_open=False))
    parts.append(_section("Runs without a result", *unfinished_table(plan), style="findings"))
    configurations = [[each["name"], " ".join(each["overrides"])] for each in plan["configurations"]]
    common = [["all runs", " ".join(plan["settings"])]] if plan["settings"] else []
    header = ["configuration", "its own settings"]
    parts.append(
        _section("Settings of the configurations", header, [*common, *configurations], is_open=False, style="findings")
    )
    return [part for part in parts if part]


def _section(title: str, header: Sequence[str], cells: Cells, *, is_open: bool = True, style: str = "") -> str:
    """A table with a heading, which opens at a click if it is not open; nothing if the table has no rows."""
    if not cells:
        return ""
    table = _table(header, cells, style or "results dense")
    shown = table if is_open else f"<details><summary>show all ({len(cells):,})</summary>{table}</details>"
    return f"<h2>{html.escape(title)}</h2>\n{shown}"


def _table(header: Sequence[str], cells: Cells, style: str = "results dense") -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    rows = ("<tr>" + _name(row[0]) + "".join(map(_cell, row[1:])) + "</tr>\n" for row in cells)
    return table_of(f"<tr>{head}</tr>", rows, style)


def _name(text: str) -> str:
    """The first cell of a row: a long name takes several lines."""
    width = "white-space: normal; min-width: 11rem; max-width: 22rem" if len(text) > SHORT else "white-space: nowrap"
    return f'<th scope="row" style="font-weight: 400; color: var(--ink); {width}">{html.escape(text)}</th>'


def _cell(text: str) -> str:
    word = text.rpartition(" ")[2] if "±" in text else text  # "0.4012 ± 0.0123 best" of one of several sets or forms
    style = STYLES.get(word, "")
    return f'<td class="{style}">{html.escape(text)}</td>' if style else f"<td>{html.escape(text)}</td>"
