"""Write the inspection of a data set as a page, one file with pictures that can be opened offline."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.formats.columns import ListRecord
from data.inspection.finding import Finding, shorten
from data.inspection.report import COLUMNS, Inspection, role_cells
from models.tokenization import length_in_words
from runs.report.charts import Points, draw_bars
from runs.report.html import page_of, table_of

BINS = 40
MOST = 0.995  # share of the numbers that a picture shows: one long text would squeeze the others
EXAMPLES = 5  # rows that are shown
TEXT = 300  # characters of a text that are shown


def write_data_page(inspection: Inspection, file: Path) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    title = html.escape(inspection.path)
    style = "warning" if inspection.fails else "lead"
    body = [
        f'<h1>{title}</h1><p class="lead">{html.escape(inspection.size)}</p>',
        f'<p class="{style}">{html.escape(inspection.verdict)}</p>',
        _findings(inspection.findings),
        _facts(inspection),
        _lengths(inspection),
        _pictures(inspection),
        _losses(inspection),
        _examples(inspection.records),
    ]
    file.write_text(page_of(title, body), encoding="utf-8")


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = []
    for finding in findings:
        places = "".join(f"<code>{html.escape(example)}</code>" for example in finding.examples)
        advice = f"<br>What to do: {html.escape(finding.advice)}" if finding.advice else ""
        rows.append(
            f'<tr><td class="{finding.severity}">{finding.severity}</td><td>{html.escape(finding.name)}</td>'
            f"<td>{html.escape(finding.message)}{advice}{places}</td></tr>\n"
        )
    return f"<h2>Findings</h2>\n{table_of('<tr><th></th><th>what</th><th></th></tr>', rows, 'findings')}"


def _facts(inspection: Inspection) -> str:
    rows = [("format", f"{inspection.format}: {inspection.reason}" if inspection.reason else inspection.format)]
    rows += [("not all was read", what) for what in inspection.sampled]
    rows += [*inspection.facts.items(), *inspection.judgement_facts()]
    rows += [("training says", line) for line in inspection.said]
    cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>\n" for name, value in rows)
    return f"<h2>Contents</h2>\n{table_of('', cells, 'findings')}"


def _lengths(inspection: Inspection) -> str:
    header = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    rows = []
    for role in inspection.roles:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in role_cells(role))
        rows.append(f"<tr><td>{role.role}</td>{cells}</tr>\n")
    reads = "" if inspection.max_length is None else length_in_words(inspection.max_length)
    model = f"Tokens of {inspection.model}, which reads {reads}" if reads else ""
    return f'<h2>Lengths</h2>\n{table_of(f"<tr>{header}</tr>", rows)}<p class="lead">{html.escape(model)}</p>'


def _pictures(inspection: Inspection) -> str:
    figures = list(_figures(inspection))
    return f'<h2>Pictures</h2>\n<div class="curves">{"".join(figures)}</div>' if figures else ""


def _figures(inspection: Inspection) -> Iterator[str]:
    for role in inspection.roles:
        if role.token_counts:
            title = f"Tokens per {role.role} (dotted: what the model reads)"
            yield histogram(title, role.token_counts, "tokens", inspection.max_length)
        elif role.word_counts:
            yield histogram(f"Words per {role.role}", role.word_counts, "words")
    for split in inspection.splits:
        if len(split.labels) > 1:
            yield draw_bars(f"Labels in {split.split}", split.labels, x_label="label")
        for name, counts in (("Positives", split.positive_counts), ("Negatives", split.negative_counts)):
            if len(set(counts)) > 1:
                yield histogram(f"{name} per {split.split} query", counts, "documents")


def histogram(title: str, values: Sequence[int], what: str, mark: float | None = None) -> str:
    """The picture of how often whole numbers occur, in at most BINS bins of equal width. Those above MOST of all are
    left out, and the title says how many."""
    top = int(np.quantile(values, MOST, method="higher"))
    width = max(1, -(-(top + 1 - min(values)) // BINS))
    first = min(values)
    counts = Counter((value - first) // width for value in values if value <= top)
    points: Points = [(first + place * width - 0.5, count) for place, count in sorted(counts.items())]
    left = sum(value > top for value in values)
    more = f"; {left:,} above {top:,} not shown" * bool(left)
    shown = mark if mark is not None and mark <= 1.2 * top else None
    return draw_bars(f"{title}{more}", points, width=width, x_label=what, mark=shown)


def _losses(inspection: Inspection) -> str:
    if inspection.losses is None:
        return ""
    lines = "".join(f'<p class="lead">{html.escape(line)}</p>\n' for line in inspection.losses.lines())
    return f"<h2>Losses</h2>\n{lines}"


def _examples(records: Sequence[ListRecord]) -> str:
    parts = []
    for record in records[:EXAMPLES]:
        items = "".join(f"<li>{_document(record, index)}</li>" for index in range(min(len(record.documents), EXAMPLES)))
        query = html.escape(shorten(record.query, TEXT))
        parts.append(f'<div class="query"><b>{query}</b><br>{html.escape(record.where)}<ol>{items}</ol></div>')
    return f"<h2>Examples</h2>\n{''.join(parts)}"


def _document(record: ListRecord, index: int) -> str:
    label = f"label {record.labels[index]:g}" if record.labels is not None else "no label"
    score = f", teacher {record.scores[index]:g}" if record.scores is not None else ""
    return f'<span class="rank">{label}{score}</span> {html.escape(shorten(record.documents[index], TEXT))}'
