"""The page of several runs as HTML: one file that can be opened offline."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from runs.report.comparison.content import Comparison, Table
from runs.report.comparison.overlay import draw_picture, legend
from runs.report.comparison.query_part import query_part
from runs.report.html import page_of, table_of

# Nothing may be loaded: a browser refuses what this page does not hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
MAX_OPEN = 40  # rows of a table that is shown before a click
LONG = 40  # characters of a cell that is broken into lines
INTERVAL = re.compile(r"([-+]?[\d.]+) (\[[-+\d., ]+\])")  # a mean and its interval
STYLE = """
h2 small, th small { font-weight: 400; color: var(--dim) }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; font-size: .9rem }
.legend img { width: 3rem; height: .8rem; vertical-align: middle }
.warnings li { color: var(--bad); font-weight: 600; margin: .3rem 0 }
.runs td { text-align: left } .runs th { text-align: left }
@media (min-width: 40rem) {
  .runs td:first-child { white-space: normal; min-width: 13rem; max-width: 20rem; overflow-wrap: anywhere } }
.runs td, .runs th { padding: .35rem .5rem } .runs td:first-child, .runs th:first-child { padding-left: 0 }
td.long:not(:first-child) { white-space: normal; min-width: 18rem; overflow-wrap: anywhere }
.pair { width: 100%; table-layout: fixed }
.pair caption { text-align: left; padding: .3rem; color: var(--dim); font-size: .9rem }
.pair th:first-child, .pair td:first-child { position: static; max-width: none; white-space: normal;
  overflow-wrap: anywhere; text-align: left }
.pair thead th:first-child { width: 52% }
@media (max-width: 40rem) { .pair tbody td { font-size: .88rem } .pair thead th:first-child { width: 46% } }
.queries { max-height: min(36rem, 85vh); overflow-y: auto; border: 1px solid var(--line); border-radius: .3rem }
.pair thead th { position: sticky; top: 0; background: var(--page); z-index: 1 }
.pair thead th:first-child { position: sticky } .pair tbody th { color: var(--ink); font-weight: 400 }
.pair tbody tr:first-child > * { border-bottom: 0; padding-bottom: 0 } .pair td { vertical-align: top }
.pair tbody td[colspan] { padding: 0 .3rem .5rem } .pair td[colspan] details { font-size: .92rem }
.pair th, .pair td, .pair th:first-child { padding-left: .3rem; padding-right: .3rem }
.pair button { font-family: inherit; font-size: .85rem; font-weight: 600; white-space: normal; color: inherit;
  background: none; border: 1px solid var(--line); border-radius: .3rem; padding: .3rem; min-height: 2rem;
  cursor: pointer }
[aria-sort=ascending] button::after { content: " \\25b2" } [aria-sort=descending] button::after { content: " \\25bc" }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: .5rem 1.5rem }
.sides ol { margin: .2rem 0; padding-left: 1.4rem } .sides li { margin: .3rem 0 } .sides p { margin: .2rem 0 }
.choices select { font: inherit; max-width: 100%; min-height: 2.2rem } small { color: var(--dim) }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
"""


def page(comparison: Comparison) -> str:
    """The page as HTML."""
    title = html.escape(comparison.title)
    body = [
        f'<h1>{title}</h1><p class="lead">{html.escape(comparison.lead)}</p>',
        _warnings(comparison.warnings),
        *comparison.opening,
        *map(table_part, comparison.results),
        _pictures(comparison),
        query_part(comparison.queries) if comparison.queries else "",
        *map(table_part, comparison.facts),
    ]
    head = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>'
    return page_of(title, body, head=head)


def table_part(table: Table) -> str:
    """A table below its title; one that is long or not open opens at a click."""
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    rows = (
        "<tr>"
        + "".join(
            f'<td class="{_style(cell, (line, place) in table.top)}">{_cell(cell)}</td>'
            for place, cell in enumerate(row)
        )
        + "</tr>\n"
        for line, row in enumerate(table.rows)
    )
    notes = "".join(f'<p class="lead">{html.escape(note)}</p>' for note in table.notes)
    content = table_of(f"<tr>{header}</tr>", rows, "runs") + notes if table.rows else notes
    if not table.is_open or len(table.rows) > MAX_OPEN:
        content = f"<details><summary>show all ({len(table.rows):,})</summary>{content}</details>"
    return f"<h2>{html.escape(table.title)}</h2>\n{content}"


def _style(text: str, is_top: bool) -> str:
    return "top" if is_top else "long" if len(text) > LONG else ""


def _cell(text: str) -> str:
    """The content of a cell; an interval stands below its mean."""
    mean, interval = match.groups() if (match := INTERVAL.fullmatch(text)) else (text, "")
    return html.escape(mean) + (f"<br><small>{interval}</small>" if interval else "")


def _warnings(warnings: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings">{items}</ul>' if items else ""


def _pictures(comparison: Comparison) -> str:
    if not comparison.pictures:
        return ""
    drawn = sorted({curve.number for picture in comparison.pictures for curve in picture.curves})
    notes = "".join(f'<p class="lead">{html.escape(note)}</p>' for note in comparison.picture_notes)
    figures = "".join(map(draw_picture, comparison.pictures))
    names = legend({number: comparison.legend[number] for number in drawn})
    return f'<h2>Training</h2>\n{names}{notes}<div class="curves">{figures}</div>'
