"""The results of several runs: each ranker with its interval, paired tests, all metrics, stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from evaluation.significance import Interval, PairedTest, corrected, interval_of, paired_test
from runs.report.comparison.content import Ranking, Table
from runs.report.comparison.rankings import common_queries, final_of
from runs.report.comparison.selection import ShownRun
from runs.report.content import RANKERS, number_of_tests, stage_rows, test_in_words
from runs.report.table import ORACLE

Rankings = Mapping[int, Sequence[Ranking]]  # number of a run -> what it has stored, by its own metric

HEADER_OF_TESTS = ("compared", "difference, 95% interval", "p", "queries", "better", "worse", "equal")


def result_tables(runs: Sequence[ShownRun], rankings: Rankings) -> list[Table]:
    """All tables of results, without those that would be empty."""
    metrics = list(dict.fromkeys(run.metric for run in runs if run.rows()))
    tables = [_by_metric([run for run in runs if run.metric == metric], metric, rankings) for metric in metrics]
    tables += [tests_table(runs, rankings), *(stages_table(run) for run in runs), all_metrics(runs)]
    return [table for table in tables if table.rows or table.notes]


def _by_metric(runs: Sequence[ShownRun], metric: str, rankings: Rankings) -> Table:
    """A row for each run, a column for each ranker, of one metric."""
    values = {run.number: {name: row[metric] for name, row in run.rows().items() if metric in row} for run in runs}
    columns = sorted(dict.fromkeys(name for row in values.values() for name in row), key=_place)
    rows, top = [], set()
    for place, run in enumerate(runs):
        intervals = intervals_of(run, metric, rankings.get(run.number, ()))
        own = values[run.number]
        cells = [str(intervals.get(name) or f"{own[name]:.4f}") if name in own else "" for name in columns]
        rows.append([run.label, *cells, _number(run)])
        ranked = {name: value for name, value in own.items() if not name.endswith(ORACLE)}
        best = max(ranked.values()) if len(ranked) > 1 else math.inf
        top |= {(place, 1 + column) for column, name in enumerate(columns) if ranked.get(name) == best}
    notes = ["in brackets: 95% interval of the mean over queries (percentile bootstrap)"] * ("[" in str(rows))
    return Table(f"Results: {metric} on test", ("run", *columns, "test"), rows, notes, frozenset(top))


def _place(name: str) -> float:
    """The place of a ranker among the columns: each stage before the end, others last."""
    known = [*RANKERS.values(), ORACLE]
    after = name.startswith("after ")
    return known.index("after") - 0.5 if after else known.index(name) if name in known else len(known)


def intervals_of(run: ShownRun, metric: str, rankings: Sequence[Ranking]) -> dict[str, Interval]:
    """The interval of each ranker: that of its summary, else from the values of single queries."""
    found = {ranking.label: _interval(tuple(ranking.values.values())) for ranking in rankings if ranking.values}
    rows = run.rows()
    for name, bounds in (run.summary.get("intervals") or {}).items():
        label = RANKERS.get(name, name)
        if metric in bounds and metric in rows.get(label, {}):
            found[label] = Interval(rows[label][metric], *bounds[metric])
    return found


@cache  # the first stage, and often the starting model, are the same in many runs
def _interval(values: tuple[float, ...]) -> Interval:
    return interval_of([dict(zip(map(str, range(len(values))), values, strict=True))])


def _number(run: ShownRun) -> str:
    known = run.summary.get("test_queries") or run.summary.get("test_pairs")
    return number_of_tests(run.summary, "") if known else run.status


def tests_table(runs: Sequence[ShownRun], rankings: Rankings) -> Table:
    """The paired tests that each run has made, and those of every run against the first one. Jobs of an ablation are
    left out: its own tests count seeds too."""
    runs = [run for run in runs if not run.job]
    rows = [row for run in runs for row in _own_tests(run, rankings.get(run.number, ()))]
    finals = [(run, final_of(rankings.get(run.number, ()))) for run in runs]
    stored = [(run, ranking) for run, ranking in finals if ranking is not None]
    notes = [
        f"{run.label}: values of single queries are not stored"
        for run, ranking in finals
        if not ranking and run.summary
    ]
    if len(stored) > 1:
        further, more = _against_first(stored)
        rows, notes = [*rows, *further], [*notes, *more]
    return Table("Paired tests", HEADER_OF_TESTS, rows, notes)


def _own_tests(run: ShownRun, rankings: Sequence[Ranking]) -> Iterator[list[str]]:
    by_label = {ranking.label: ranking.values for ranking in rankings}
    for key, test in (run.summary.get("tests") or {}).items():
        second, _, first = (RANKERS.get(side, side) for side in key.partition("_vs_"))
        counted = ["", "", "", ""]
        if first in by_label and second in by_label:
            counted = _counts(by_label[first], by_label[second], list(by_label[first]))
        yield [f"{run.label}: {test_in_words(key)}", *_test_cells(PairedTest(**test)), *counted]


def _against_first(stored: Sequence[tuple[ShownRun, Ranking]]) -> tuple[list[list[str]], list[str]]:
    """The rows of the tests of each run against the first, and what is to be said about them."""
    (first, baseline), others = stored[0], stored[1:]
    tests, rows, notes = {}, {}, []
    for run, ranking in others:
        common, reason = common_queries(first, run)
        if run.metric != first.metric:
            common, reason = [], f"its metric is {run.metric}, not {first.metric}"
        name = f"{run.label} vs {first.label}: {ranking.label}"
        name += f" vs {baseline.label}" * (ranking.label != baseline.label)
        if not common:
            notes.append(f"{name}, not compared: {reason}")
            continue
        before, after = ({query: values[query] for query in common} for values in (baseline.values, ranking.values))
        tests[name], rows[name] = paired_test(before, after), _counts(before, after, common)
        if len(common) < max(len(baseline.values), len(ranking.values)):
            own, its = len(ranking.values), len(baseline.values)
            notes.append(f"{name}, on the {len(common):,} queries that both have, of {own:,} and {its:,}")
    if len(tests) > 1:
        notes.append(f"p against the first run: with Holm's correction for {len(tests)} tests")
    return [[name, *_test_cells(test), *rows[name]] for name, test in corrected(tests).items()], notes


def _test_cells(test: PairedTest) -> list[str]:
    interval, _, p_value = str(test).rpartition(", p ")
    return [interval, p_value.removeprefix("= ")]


def _counts(before: Mapping[str, float], after: Mapping[str, float], queries: Sequence[str]) -> list[str]:
    better = sum(after[query] > before[query] for query in queries)
    worse = sum(after[query] < before[query] for query in queries)
    return [f"{number:,}" for number in (len(queries), better, worse, len(queries) - better - worse)]


def stages_table(run: ShownRun) -> Table:
    """The stages of a run; without rows if it has fewer than two."""
    header, *rows = stage_rows({"metric": run.metric, **run.summary})
    return Table(f"Stages of {run.label}", header, rows)


def all_metrics(runs: Sequence[ShownRun]) -> Table:
    """Every metric of every ranker."""
    found = [(run, name, row) for run in runs for name, row in run.rows().items()]
    metrics = list(dict.fromkeys(metric for _, _, row in found for metric in row))
    rows = [
        [run.label, name, *(f"{row[metric]:.4f}" if metric in row else "" for metric in metrics)]
        for run, name, row in found
    ]
    return Table("All metrics on test", ("run", "ranker", *metrics), rows, is_open=len(runs) == 1)
