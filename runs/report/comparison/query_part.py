"""The wins and losses by query as a part of a page, on which two rankings are chosen and the table is sorted."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runs.report.comparison.content import Pair, QueryComparison, Ranking
from runs.report.comparison.script import SCRIPT

MAX_BYTES = 3_000_000  # of the data that the script reads
COLUMNS = ("query", "A", "B", "B - A")
NOT_STORED = "documents are not stored for this ranking"


def query_part(queries: QueryComparison) -> str:
    """The part of a page; without a script it shows the first pair."""
    data, listed = _bounded(queries)
    first, second = queries.first
    options = [
        "".join(
            f'<option value="{place}"{" selected" if place == chosen else ""}>{html.escape(ranking.label)}</option>'
            for place, ranking in enumerate(queries.rankings)
        )
        for chosen in queries.first
    ]
    pair = queries.pairs[min(first, second), max(first, second)]
    lines = "".join(
        f'<p class="lead">{html.escape(note)}</p>' for note in [*queries.notes, *_left_out(queries, listed)]
    )
    rows = "".join(_query(queries, query, first, second) for query in _by_difference(queries, listed))
    header = "".join(
        f'<th scope="col"{" aria-sort=descending" if name == COLUMNS[-1] else ""}>{name}</th>' for name in COLUMNS
    )
    label_a, label_b = (html.escape(queries.rankings[place].label) for place in (first, second))
    metric = html.escape(queries.metric)
    return (
        f"<h2>Wins and losses by query: {metric}</h2>\n"
        f'<p class="choices" hidden><label for="ranking-a">A</label> <select id="ranking-a">{options[0]}</select> '
        f'<label for="ranking-b">B</label> <select id="ranking-b">{options[1]}</select></p>\n'
        f'<p>A: <b id="name-a">{label_a}</b>. B: <b id="name-b">{label_b}</b>. '
        f'<span id="counts" role="status">{html.escape(_counts(pair, first > second))}</span></p>{lines}\n'
        f'<div class="queries" tabindex="0"><table class="pair" id="pair">'
        f"<caption>{metric} of A and B, and the first documents of each</caption>"
        f"<thead><tr>{header}</tr></thead>\n{rows}</table></div>\n"
        f'<script type="application/json" id="queries">{data}</script>\n<script>{SCRIPT}</script>'
    )


def _left_out(queries: QueryComparison, listed: Sequence[str]) -> list[str]:
    number, of = len(listed), len(queries.texts)
    few = f"listed are the {number:,} of {of:,} queries on which the rankings differ most; the counts are over all"
    return [few] if number < of else []


def _counts(pair: Pair, is_reversed: bool) -> str:
    """The sentence on a pair; the script writes the same one."""
    won, lost = (pair.lost, pair.won) if is_reversed else (pair.won, pair.lost)
    difference = 0.0 - pair.difference if is_reversed else pair.difference
    return (
        f"B is better on {won:,}, worse on {lost:,} and equal on {pair.tied:,} of {pair.queries:,} queries; "
        f"mean difference {difference:+.4f}"
    )


def _by_difference(queries: QueryComparison, listed: Sequence[str]) -> list[str]:
    """The listed queries that the first pair has, the largest gain first."""
    before, after = (queries.rankings[place].values for place in queries.first)
    both = [query for query in listed if query in before and query in after]
    return sorted(both, key=lambda query: before[query] - after[query])


def _query(queries: QueryComparison, query: str, first: int, second: int) -> str:
    before, after = (queries.rankings[place].values[query] for place in (first, second))
    text = html.escape(queries.texts[query] or query)
    lists = "".join(
        f"<div><b>{name}</b>{_documents(queries.rankings[place], query)}</div>"
        for name, place in (("A", first), ("B", second))
    )
    direction = "up" if after > before else "down" if after < before else ""
    return (
        f'<tbody><tr><th scope="row">{text} <small>{html.escape(query)}</small></th><td>{before:.3f}</td>'
        f'<td>{after:.3f}</td><td class="{direction}">{after - before:+.3f}</td></tr>'
        f'<tr><td colspan="4"><details><summary aria-label="documents: {text}">documents</summary>'
        f'<div class="sides">{lists}</div></details></td></tr></tbody>\n'
    )


def _documents(ranking: Ranking, query: str) -> str:
    documents = ranking.documents.get(query) or ()
    if not documents:
        return f"<p>{NOT_STORED}</p>"
    items = "".join(
        f"<li>{_grade(found)}{html.escape(str(found['text']))} <small>{html.escape(str(found['id']))}</small></li>"
        for found in documents
    )
    return f"<ol>{items}</ol>"


def _grade(document: Mapping[str, Any]) -> str:
    grade = document["grade"]
    return f'<span class="relevant">grade {html.escape(str(grade))}</span> ' if grade > 0 else ""


def _bounded(queries: QueryComparison) -> tuple[str, list[str]]:
    """The data of the script, and the queries in it: as many of the listed ones as fit in MAX_BYTES."""
    listed = list(queries.listed)
    while True:
        data = _as_json(queries, listed)
        if len(data.encode()) <= MAX_BYTES or len(listed) < 2:
            return data, listed
        listed = listed[: len(listed) // 2]


def _as_json(queries: QueryComparison, listed: Sequence[str]) -> str:
    """The data: each document's text once; values and documents of a query by the place of the ranking."""
    places: dict[tuple[str, str], int] = {}
    rows = []
    for query in listed:
        values = [round(ranking.values[query], 6) if query in ranking.values else None for ranking in queries.rankings]
        documents = [
            [[places.setdefault((str(d["id"]), str(d["text"])), len(places)), d["grade"]] for d in found]
            for found in (ranking.documents.get(query) or () for ranking in queries.rankings)
        ]
        rows.append([query, queries.texts[query], values, documents])
    pairs = {
        f"{first},{second}": [pair.queries, pair.won, pair.lost, pair.tied, round(pair.difference, 6)]
        for (first, second), pair in queries.pairs.items()
    }
    content = {
        "rankings": [ranking.label for ranking in queries.rankings],
        "documents": list(places),
        "queries": rows,
        "pairs": pairs,
        "absent": NOT_STORED,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
