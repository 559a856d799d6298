"""The page of a choice: one file with pictures that opens offline. All of it is in choose.json."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.choose.decision import CHOSEN, FAILED, LIMITED, WORSE
from recipes.choose.pictures import figures_of
from recipes.choose.table import (
    Cells,
    broken_lines,
    facts_table,
    forms_table,
    lead,
    main_table,
    measured,
    origin_lines,
    origin_table,
    reading_table,
    words_table,
)
from runs.report.html import page_of, table_of

Summary = Mapping[str, Any]
STYLES = {CHOSEN: "relevant", FAILED: "error", LIMITED: "down", WORSE: ""}

WINDOWS = (
    "In windows a document is read in parts that overlap by a tenth, and its best part counts; the choice above is by "
    "documents as the models read them alone. texts: how many times as many texts are read or stored then."
)
WORDS = (
    "In scripts without spaces a letter is a word. Terms are words that many documents have, and not most; one is "
    "broken if it is read as three tokens or more, or if a part of it is unknown; listed with its number of tokens."
)
FORMS = (
    "Queries stay in float32. best 10 kept: the share of the ten best documents by float32 vectors of as many "
    "dimensions that are among the ten best."
)
ORIGIN = "As declared; a model whose card is silent may have been trained on these data too."


def page(summary: Summary) -> str:
    """The page as HTML."""
    decision, title = summary["decision"], f"Choice of a model: {summary['data']}"
    head = f"Choose {decision['sentence']}" if decision["chosen"] else decision["sentence"]
    body = [
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead(summary))}</p>',
        f"<p><b>{html.escape(head)}.</b></p>",
        *(f'<p class="warning">{html.escape(warning)}.</p>' for warning in summary["warnings"]),
        _section("Models", main_table(summary)),
        _reasons(summary),
    ]
    if measured(summary):
        body.append(f'<h2>Pictures</h2>\n<div class="curves">{"".join(figures_of(summary))}</div>')
    body += [
        _section("Context window", reading_table(summary), WINDOWS),
        _section("Tokenisation and vocabulary", words_table(summary), WORDS, broken_lines(summary)),
        _section("Dimensions and precision", forms_table(summary), FORMS),
        _section("Licence, training data, price", origin_table(summary), ORIGIN, origin_lines(summary)),
        _costs(summary),
        _section("Published facts", facts_table(summary), "Measured by others, on other data."),
    ]
    return page_of(html.escape(title), body)


def _reasons(summary: Summary) -> str:
    rows = []
    for label, verdict in summary["decision"]["verdicts"].items():
        style = STYLES.get(verdict["verdict"], "")
        rows.append(
            f'<tr><td>{html.escape(label)}</td><td class="{style}">{html.escape(verdict["reason"])}</td></tr>\n'
        )
    limits = ", ".join(f"{key}={value}" for key, value in summary["limits"].items())
    said = f"Limits: {limits}." if limits else "No limits were set."
    return f'<h2>Why</h2>\n{table_of("", rows, "findings")}<p class="lead">{html.escape(said)}</p>'


def _costs(summary: Summary) -> str:
    """The conditions of the costs."""
    lines = [
        f"{row['label']}: {cost['device']}, {cost['threads']} thread{'s' * (cost['threads'] != 1)}, {cost['dtype']}; "
        f"{cost['sampled_documents']:,} documents and {cost['sampled_queries']:,} queries, one query at a time, "
        f"{cost['documents_per_query']:,} documents a query; memory: {cost['memory']}"
        for row in measured(summary)
        for cost in [row["cost"]]
    ]
    note = "That of a reranker is beside that of its first stage, whose index it needs." * (
        summary["kind"] == "rerankers"
    )
    parts = "".join(f'<p class="lead">{html.escape(line)}.</p>\n' for line in lines)
    head = f'<p class="lead">{note}</p>' * bool(note)
    return f"<h2>How cost was measured</h2>\n{head}{parts}"


def _section(title: str, table: tuple[list[str], Cells], note: str = "", lines: Sequence[str] = ()) -> str:
    """A table with a heading, a note and lines about single models; nothing if the table has no rows."""
    header, cells = table
    if not cells:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    rows = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in cells)
    drawn = table_of(f"<tr>{head}</tr>", rows, "results dense")
    below = "".join(f'<p class="lead">{html.escape(line)}</p>\n' for line in (note, *lines))
    return f"<h2>{html.escape(title)}</h2>\n{drawn}{below}"
