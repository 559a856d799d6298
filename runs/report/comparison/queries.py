"""The wins and losses of each ranking against every other one, query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from runs.report.comparison.content import Pair, QueryComparison, Ranking, Table
from runs.report.comparison.rankings import data_of, final_of, rankings_of
from runs.report.comparison.selection import ShownRun

MAX_RANKINGS = 80  # that can be chosen
MAX_QUERIES = 500  # that are listed
SHOWN = 10  # largest gains, and as many largest losses, in a report that is not interactive
STARTS = ("first stage", "before", "BM25")  # of one run, its final ranking is compared with the first of these


def compare_queries(runs: Sequence[ShownRun], pair: Sequence[str] = ()) -> QueryComparison | None:
    """Compare all stored rankings by the metric of the first run that has any; None if there are fewer than two.
    `pair`: two configurations of an ablation that are shown at first, if they have rankings."""
    stored = [run for run in runs if run.queries and run.metric]
    metric = stored[0].metric if stored else ""
    texts: dict[str, str] = {}
    notes, finals, found, owners = [], [], [], []
    for run in stored:
        if _has_no_texts(run) and not set(data_of(run)) & set(data_of(stored[0])) - {""}:
            notes.append(f"{run.label}: its texts are not stored, and its data are others: not compared by query")
            continue
        own = rankings_of(run, metric)
        keys = {query: _key(texts, query, line["text"], len(stored)) for query, line in run.queries.items()}
        if not own:
            notes.append(f"{run.label}: no values of {metric} for single queries")
            continue
        labelled = [_relabel(ranking, f"{run.label}: {ranking.label}", keys) for ranking in own]
        finals.append(labelled[own.index(final_of(own) or own[0])])
        found.append(labelled)
        owners.append(run)
    rankings = [ranking for of_run in found for ranking in of_run]
    if len(rankings) > MAX_RANKINGS:
        some = f"the first {MAX_RANKINGS} runs" if len(finals) > MAX_RANKINGS else "each run"
        notes.append(f"only the final ranking of {some} can be chosen: there are {len(rankings):,} in all")
        rankings = finals[:MAX_RANKINGS]
    if len(rankings) < 2:
        return None
    table = np.array([[ranking.values.get(query, np.nan) for query in texts] for ranking in rankings])
    listed = _most_different(list(texts), table)
    first = _first_pair(rankings, finals, owners, pair)
    return QueryComparison(metric, rankings, texts, listed, _pairs(table), first, notes)


def extremes_table(queries: QueryComparison) -> Table:
    """The queries of the first pair with the largest gains and losses, for a report that is not interactive."""
    before, after = (queries.rankings[place] for place in queries.first)
    both = [query for query in queries.listed if query in before.values and query in after.values]
    both.sort(key=lambda query: before.values[query] - after.values[query])
    chosen = both[:SHOWN] + both[max(SHOWN, len(both) - SHOWN) :]
    rows = [
        [
            queries.texts[query] or query,
            f"{before.values[query]:.3f}",
            f"{after.values[query]:.3f}",
            f"{after.values[query] - before.values[query]:+.3f}",
        ]
        for query in chosen
    ]
    header = ("query", before.label, after.label, "difference")
    note = f"The {len(rows)} queries with the largest gains and losses; the page lists up to {MAX_QUERIES}."
    return Table(f"Wins and losses by query: {queries.metric}", header, rows, [note, *queries.notes])


def _has_no_texts(run: ShownRun) -> bool:
    return not any(line["text"] for line in run.queries.values())


def _key(texts: dict[str, str], query: str, text: str, most: int) -> str:
    """The key of a query in `texts`, to which it is added: its id, with a number if other data have another query of
    that id."""
    for key in (query, *(f"{query} ({number})" for number in range(2, most + 2))):
        if not texts.get(key) or not text or texts[key] == text:
            texts[key] = texts.get(key) or text
            return key
    raise AssertionError("there are no more texts than runs")


def _relabel(ranking: Ranking, label: str, keys: Mapping[str, str]) -> Ranking:
    values = {keys[query]: value for query, value in ranking.values.items()}
    documents = {keys[query]: documents for query, documents in ranking.documents.items() if query in keys}
    return replace(ranking, label=label, values=values, documents=documents)


def _most_different(queries: Sequence[str], table: np.ndarray) -> list[str]:
    """The queries that at least two of the rankings have, of values [rankings, queries], with the largest difference
    first; at most MAX_QUERIES."""
    known = ~np.isnan(table)
    highest = np.where(known, table, -np.inf).max(axis=0)
    lowest = np.where(known, table, np.inf).min(axis=0)
    spread = np.where(known.sum(axis=0) > 1, highest - lowest, -1.0)
    chosen = np.argsort(-spread, kind="stable")[:MAX_QUERIES]
    return [queries[place] for place in chosen if spread[place] >= 0]


def _pairs(table: np.ndarray) -> dict[tuple[int, int], Pair]:
    pairs = {}
    for first, second in combinations(range(len(table)), 2):
        differences = table[second] - table[first]
        differences = differences[~np.isnan(differences)]
        won, lost = int((differences > 0).sum()), int((differences < 0).sum())
        number = len(differences)
        mean = float(differences.mean()) if number else 0.0
        pairs[first, second] = Pair(number, won, lost, number - won - lost, mean)
    return pairs


def _first_pair(
    rankings: Sequence[Ranking], finals: Sequence[Ranking], runs: Sequence[ShownRun], pair: Sequence[str]
) -> tuple[int, int]:
    """The pair that is shown at first: the first two runs (of an ablation, not of one configuration), or the start and
    the end of the only one. `finals` are the final rankings of `runs`."""
    if len(finals) > 1:
        configurations = [run.job[1] if run.job else "" for run in runs]
        first, *others = [configurations.index(name) for name in pair if name in configurations] or [0]
        own = configurations[first]
        further = [place for place in range(len(runs)) if place != first and (not own or configurations[place] != own)]
        second = next(iter([*others, *further]), 1 - first if first < 2 else 0)
        # a large ablation has fewer rankings that can be chosen than runs
        places = [rankings.index(finals[place]) for place in (first, second) if finals[place] in rankings]
        return (places[0], places[1]) if len(places) > 1 else (0, 1)
    labels = [ranking.label.partition(": ")[2] for ranking in rankings]
    second = rankings.index(finals[0])
    first = next((labels.index(start) for start in STARTS if start in labels), 0)
    return (first, second) if first != second else (0, 1)
