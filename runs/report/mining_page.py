"""Write the audit of mined negatives as a page, one file with pictures that can be opened offline."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runs.report.charts import Points, draw_bars
from runs.report.html import page_of, table_of

BINS = 40


@dataclass(frozen=True)
class Shown:
    """A document with what is said of it."""

    note: str
    text: str
    is_relevant: bool


@dataclass(frozen=True)
class ShownQuery:
    """A query with documents."""

    query: str
    query_id: str
    documents: Sequence[Shown]


@dataclass(frozen=True)
class MiningPage:
    """The content of the page. `counts` are name, value and explanation; `reasons` counts by reason below a sentence;
    `scores` the scores behind the pictures, by what has them."""

    title: str
    lead: str
    counts: Sequence[tuple[str, str, str]]
    reasons: Mapping[str, Mapping[str, int]]
    scores: Mapping[str, np.ndarray]
    distributions: Mapping[str, Mapping[str, float]]
    about_scores: str
    about_suspects: str
    suspects: Sequence[ShownQuery]
    num_suspects: int
    samples: Sequence[ShownQuery]
    settings: Mapping[str, Any]


def write_mining_page(page: MiningPage, file: Path) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    title = html.escape(page.title)
    more = f", the first {len(page.suspects)} of {page.num_suspects:,}" * (len(page.suspects) < page.num_suspects)
    body = [
        f'<h1>{title}</h1><p class="lead">{html.escape(page.lead)}</p>',
        _counts(page),
        _scores(page),
        queries_part(f"Suspected to be relevant{more}", page.about_suspects, page.suspects),
        queries_part("To judge by eye", "", page.samples),
        settings_part(page.settings, "mine."),
    ]
    file.write_text(page_of(title, body), encoding="utf-8")


def _counts(page: MiningPage) -> str:
    rows = (
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td><td>{html.escape(text)}</td></tr>\n"
        for name, value, text in page.counts
    )
    parts = [f"<h2>Slots</h2>\n{table_of('', rows, 'findings')}"]
    for sentence, counts in page.reasons.items():
        if counts:
            cells = (f"<tr><td>{number:,}</td><td>{html.escape(name)}</td></tr>\n" for name, number in counts.items())
            parts.append(f'<p class="lead">{html.escape(sentence)}</p>\n{table_of("", cells, "findings")}')
    return "\n".join(parts)


def _scores(page: MiningPage) -> str:
    names = list(dict.fromkeys(name for values in page.distributions.values() for name in values))
    header = f"<tr><th></th>{''.join(f'<th>{html.escape(name)}</th>' for name in names)}</tr>"
    rows = (
        f"<tr><td>{html.escape(title)}</td>{''.join(_number(values.get(name)) for name in names)}</tr>\n"
        for title, values in page.distributions.items()
    )
    figures = "".join(_figures(page.scores))
    return (
        f'<h2>Scores</h2>\n<p class="lead">{html.escape(page.about_scores)}</p>\n{table_of(header, rows)}\n'
        f'<div class="curves">{figures}</div>'
    )


def _number(value: float | None) -> str:
    text = "" if value is None else f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
    return f"<td>{text}</td>"


def _figures(scores: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A histogram for each of `scores`, all with the same bins, so that they can be compared by eye."""
    everything = np.concatenate([np.empty(0), *scores.values()])
    if not len(everything) or everything.min() == everything.max():
        return
    edges = np.linspace(everything.min(), everything.max(), BINS + 1)
    for name, values in scores.items():
        heights = np.histogram(values, edges)[0]
        points: Points = [(float(edge), int(height)) for edge, height in zip(edges, heights, strict=False)]
        yield draw_bars(f"Scores of {name} documents", points, width=float(edges[1] - edges[0]), x_label="score")


def queries_part(title: str, about: str, queries: Sequence[ShownQuery]) -> str:
    """The part of a page that shows queries with documents; empty if there are none."""
    if not queries:
        return ""
    parts = [f'<h2>{html.escape(title)}</h2>\n<p class="lead">{html.escape(about)}</p>']
    for query in queries:
        items = "".join(map(_document, query.documents))
        name = f"<b>{html.escape(query.query)}</b><br>{html.escape(query.query_id)}"
        parts.append(f'<div class="query">{name}<ol>{items}</ol></div>')
    return "\n".join(parts)


def _document(document: Shown) -> str:
    note = f'<span class="{"relevant" if document.is_relevant else "rank"}">{html.escape(document.note)}</span>'
    return f"<li>{note} {html.escape(document.text)}</li>"


def settings_part(settings: Mapping[str, Any], prefix: str = "") -> str:
    """The part of a page with the settings, which opens at a click."""
    cells = ((html.escape(name), html.escape(str(value))) for name, value in settings.items())
    rows = (f"<tr><td>{prefix}{name}</td><td>{value}</td></tr>" for name, value in cells)
    return f"<h2>Settings</h2><details><summary>show all</summary>{table_of('', rows, 'settings')}</details>"
