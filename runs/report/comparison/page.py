"""Write the page of several runs: one file that can be opened offline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from runs.report.comparison.compare import compare
from runs.report.comparison.content import Comparison, Table
from runs.report.comparison.overlay import draw_picture, legend
from runs.report.comparison.query_part import query_part
from runs.report.comparison.selection import select
from runs.report.html import page_of, table_of

# Nothing may be loaded: a browser refuses what this page does not hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
h2 small, th small { font-weight: 400; color: var(--dim) }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; font-size: .9rem }
.legend img { width: 3rem; height: .8rem; vertical-align: middle }
.warnings li { color: var(--bad); font-weight: 600; margin: .3rem 0 }
.runs td { text-align: left } .runs th { text-align: left }
.runs td:not(:first-child) { white-space: nowrap }
.pair { width: 100%; table-layout: fixed } .pair caption { text-align: left; color: var(--dim); font-size: .9rem }
.pair th:first-child, .pair td:first-child { position: static; max-width: none; white-space: normal;
  overflow-wrap: anywhere; text-align: left }
.pair thead th:first-child { width: 58% } .pair tbody th { color: var(--ink); font-weight: 400 }
.pair tbody tr:first-child > * { border-bottom: 0; padding-bottom: 0 } .pair td { vertical-align: top }
.pair td[colspan] { padding: 0 0 .5rem } .pair td[colspan] details { font-size: .92rem }
.pair th, .pair td { padding-left: .3rem; padding-right: .3rem }
.pair button { font: inherit; font-weight: 600; color: inherit; background: none; border: 1px solid var(--line);
  border-radius: .3rem; padding: .3rem .5rem; min-height: 2rem; cursor: pointer }
[aria-sort=ascending] button::after { content: " \\25b2" } [aria-sort=descending] button::after { content: " \\25bc" }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: .5rem 1.5rem }
.sides ol { margin: .2rem 0; padding-left: 1.4rem } .sides li { margin: .3rem 0 } .sides p { margin: .2rem 0 }
.choices select { font: inherit; max-width: 100%; min-height: 2.2rem } small { color: var(--dim) }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
"""


def write_page(paths: Sequence[Path], file: Path) -> Comparison:
    """Write the page of the runs, stages, evaluations or ablations at `paths`. Returns what it says. Raises ValueError
    for a path that is none of these, OSError if the file cannot be written."""
    runs = select(paths)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    comparison = compare(title, runs)
    file.write_text(page(comparison), encoding="utf-8")
    return comparison


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
    """A table below its title; one that is not open opens at a click."""
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    rows = (
        "<tr>"
        + "".join(
            f"<td{' class=top' if (line, place) in table.top else ''}>{html.escape(cell)}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>\n"
        for line, row in enumerate(table.rows)
    )
    notes = "".join(f'<p class="lead">{html.escape(note)}</p>' for note in table.notes)
    content = table_of(f"<tr>{header}</tr>", rows, "runs") + notes
    if not table.is_open:
        content = f"<details><summary>show all</summary>{content}</details>"
    return f"<h2>{html.escape(table.title)}</h2>\n{content}"


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
