"""The results of a suite as text: a row for each data set, the mean last, and the tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data.truncation import line_of_summary
from evaluation.significance import Interval, PairedTest
from runs.report.content import RANKERS, further_lines, result_rows
from runs.report.table import below_first_stage, format_table


def print_suite(summary: Mapping[str, Any]) -> None:
    """Print the results of a suite: the chosen metric of each ranker and data set with its 95% interval, the mean over
    the sets last; all metrics of the mean; the paired tests; then what only a single set has (stored forms, cost, depth
    sweeps)."""
    mean, number = summary["mean"], len(summary["sets"])
    print(f"{number} data set{'s' * (number > 1)}, {mean['split']}: {mean['name_or_path']}, {mean['method']}\n")
    print("\n".join(_table(summary)))
    print(f"\nmean over {number} set{'s' * (number > 1)}\n")
    print(format_table(result_rows(mean)))
    for line in _remarks(summary):
        print(line)
    for name, own in summary["sets"].items():
        for lines in further_lines(own):
            print("", f"{name}: {lines[0]}", *lines[1:], sep="\n")


def _table(summary: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table: the name of the set, its number of queries, and a column for each ranker."""
    metric, sets = summary["mean"]["metric"], {**summary["sets"], "mean": summary["mean"]}
    rankers = list(dict.fromkeys(ranker for own in summary["sets"].values() for ranker in own["metrics"]))
    rows = [
        [f"{name}{_partial(own)}", f"{own['test_queries']:,}", *(_cell(own, ranker, metric) for ranker in rankers)]
        for name, own in sets.items()
    ]
    head = [metric, "queries", *(RANKERS.get(ranker, ranker) for ranker in rankers)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "  ".join(
            [f"{cells[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:], strict=True))]
        )

    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    yield from (line(head), rule, *map(line, rows[:-1]), rule, line(rows[-1]))


def _partial(summary: Mapping[str, Any]) -> str:
    """What is added to the name of a set of which only a part of the corpus was searched, and to that of the mean."""
    if part := summary.get("partial"):
        return f" (partial: {part['documents']:,} of {part['of']:,} documents)"
    return " (partial)" if summary.get("partial_sets") else ""


def _cell(summary: Mapping[str, Any], ranker: str, metric: str) -> str:
    if ranker not in summary["metrics"]:
        return "-"
    return str(Interval(summary["metrics"][ranker][metric], *summary["intervals"][ranker][metric]))


def _remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """What the candidates and texts lack, the paired tests of the mean and of the sets, and a warning if the first
    stage is better."""
    mean, metric = summary["mean"], summary["mean"]["metric"]
    if mean.get("partial_sets"):
        yield "partial: values are higher than over the whole corpus"
    if mean.get("recall_ceiling") is not None:
        of_sets = ", ".join(f"{name} {own['recall_ceiling']:.1%}" for name, own in summary["sets"].items())
        yield f"{mean['recall_ceiling']:.1%} of the relevant documents are among the candidates ({of_sets})"
    for name, own in summary["sets"].items():
        if cut := own.get("truncated") and line_of_summary(own["truncated"]):
            yield f"{name}: {cut}"
    for name in summary["tests_by_set"]:
        if name in mean["tests"]:
            yield f"{metric}, {_in_words(name)}, mean over the sets: {PairedTest(**mean['tests'][name])}"
        if not name.endswith("_vs_against"):
            yield from _of_sets(summary, name, metric)
    for number, (key, test) in enumerate(mean.get("tests_against", {}).items()):
        if number == 0:
            holm = f" (p with Holm's correction for {len(mean['tests_against'])} metrics)"
            yield f"other run: {mean['against_path']}{holm}"
        yield f"{key}, against the other run, mean over the sets: {PairedTest(**test)}"
    for name in summary["tests_by_set"]:
        if name.endswith("_vs_against"):
            yield from _of_sets(summary, name, metric)
    if warning := below_first_stage(result_rows(mean), metric):
        yield warning


def _of_sets(summary: Mapping[str, Any], name: str, metric: str) -> Iterator[str]:
    """The tests of single sets."""
    tests = summary["tests_by_set"][name]
    number = sum(map(len, tests.values()))
    for place, (each, of_set) in enumerate(tests.items()):
        holm = f" (p with Holm's correction for {number} tests)" if place == 0 and number > 1 else ""
        yield f"  {each}, {_in_words(name)}: {PairedTest(**of_set[metric])}{holm}"


def _in_words(name: str) -> str:
    """ "model_vs_bm25" -> "model vs BM25"."""
    return " vs ".join(RANKERS.get(side, side) for side in name.split("_vs_"))
