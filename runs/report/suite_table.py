"""The results of a suite as text: a row for each data set, the mean last, and the tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.significance import Interval, PairedTest
from runs.report.content import RANKERS, number_of_tests, print_details, result_rows
from runs.report.table import below_first_stage, format_table


def print_suite(summary: Mapping[str, Any]) -> None:
    """Print the results of a suite: the chosen metric of each ranker and data set with its 95% interval, the mean over
    the sets last; all metrics of the mean; the paired tests."""
    mean, number = summary["mean"], len(summary["sets"])
    print(f"{number} data sets, {mean['split']}: {mean['name_or_path']}, {mean['method']}\n")
    print("\n".join(_table(summary)))
    print(f"\nmean over {number} sets\n")
    print(format_table(result_rows(mean)))
    for line in _remarks(summary):
        print(line)
    for name, own in summary["sets"].items():
        print_details(own, f"{name}: ")


def _table(summary: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table: the name of the set, its number of queries, and a column for each ranker."""
    metric, sets = summary["mean"]["metric"], {**summary["sets"], "mean": summary["mean"]}
    rankers = list(dict.fromkeys(ranker for own in summary["sets"].values() for ranker in own["metrics"]))
    rows = [
        [name, f"{own['test_queries']:,}", *(_cell(own, ranker, metric) for ranker in rankers)]
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


def _cell(summary: Mapping[str, Any], ranker: str, metric: str) -> str:
    if ranker not in summary["metrics"]:
        return "-"
    return str(Interval(summary["metrics"][ranker][metric], *summary["intervals"][ranker][metric]))


def _remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """The paired tests of the mean, then those of the sets, and a warning if the first stage is better."""
    mean, metric = summary["mean"], summary["mean"]["metric"]
    for name, own in summary["sets"].items():
        if own.get("partial"):
            yield f"{name}: {number_of_tests(own, '')}"
    for name, test in mean["tests"].items():
        yield f"{metric}, {_in_words(name)}, mean over the sets: {PairedTest(**test)}"
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
