"""The tables of a finished run in W&B: results, tests, the queries that gained and lost most, and all values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NUM_EXTREMES = 5  # queries of each table of the best and the worst
MAX_ROWS = 10_000  # above it W&B shows a sample
SIDES = ("before", "after")
RANKERS = ("first_stage", *SIDES, "fused")


@dataclass(frozen=True)
class TableRows:
    """A table as plain values; None is an empty cell."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def tables_of(summary: Mapping[str, Any], queries: Mapping[str, Mapping[str, Any]]) -> dict[str, TableRows]:
    """The tables by name. `summary` is the content of summary.json, `queries` are the test queries by id as
    runs/queries.jsonl holds them. Tables without rows are left out."""
    tables = {"results/metrics": _metrics(summary), "results/tests": _tests(summary)}
    if queries:
        metric = summary["metric"]
        gained, lost = _extremes(queries, metric)
        tables |= {
            "queries/best": _with_documents(queries, gained, metric),
            "queries/worst": _with_documents(queries, lost, metric),
            "queries/values": _values(queries),
        }
    return {name: table for name, table in tables.items() if table.rows}


def _metrics(summary: Mapping[str, Any]) -> TableRows:
    """A row for each ranker, a column for each metric."""
    results: Mapping[str, Mapping[str, float]] = summary.get("metrics") or {}
    names = list(dict.fromkeys(name for means in results.values() for name in means))
    rankers = [ranker for ranker in RANKERS if ranker in results]
    return TableRows(["ranker", *names], [[ranker, *map(results[ranker].get, names)] for ranker in rankers])


def _tests(summary: Mapping[str, Any]) -> TableRows:
    """A row for each paired test, with the fields of `PairedTest`."""
    tests: Mapping[str, Mapping[str, Any]] = summary.get("tests") or {}
    fields = list(dict.fromkeys(field for test in tests.values() for field in test))
    rows = [[name.replace("_vs_", " vs "), summary["metric"], *map(test.get, fields)] for name, test in tests.items()]
    return TableRows(["comparison", "metric", *fields], rows)


def _extremes(queries: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[list[str], list[str]]:
    """The queries that gained and those that lost most over the first stage, or over the starting model if there is
    none."""
    changes = {query: change for query, line in queries.items() if (change := _change(line, metric)) is not None}
    ordered = sorted(changes, key=lambda query: (-changes[query], query))
    gained = [query for query in ordered[:NUM_EXTREMES] if changes[query] > 0]
    lost = [query for query in reversed(ordered[-NUM_EXTREMES:]) if changes[query] < 0]
    return gained, lost


def _change(line: Mapping[str, Any], metric: str) -> float | None:
    values = line["values"]
    other = values.get("first_stage") or values.get("before") or {}
    after, before = (values.get("after") or {}).get(metric), other.get(metric)
    return None if after is None or before is None else float(after - before)


def _with_documents(queries: Mapping[str, Mapping[str, Any]], chosen: Sequence[str], metric: str) -> TableRows:
    """A row for each rank of each chosen query: its documents before and after, and the query's values."""
    rankers = _rankers(queries)
    columns = ["query_id", "query", *(f"{ranker} {metric}" for ranker in rankers), "rank"]
    columns += [f"{side} {field}" for side in SIDES for field in ("document", "grade", "text")]
    rows = []
    for query in chosen:
        line = queries[query]
        documents = {side: line["documents"].get(side) or [] for side in SIDES}
        values = [(line["values"].get(ranker) or {}).get(metric) for ranker in rankers]
        for rank in range(max(map(len, documents.values()))):
            cells = [
                shown[rank].get(field) if rank < len(shown) else None
                for shown in documents.values()
                for field in ("id", "grade", "text")
            ]
            rows.append([query, line["text"], *values, rank + 1, *cells])
    return TableRows(columns, rows)


def _values(queries: Mapping[str, Mapping[str, Any]]) -> TableRows:
    """A row for each query, a column for each ranker and metric."""
    keys = list(
        dict.fromkeys(
            (ranker, metric)
            for ranker in _rankers(queries)
            for line in queries.values()
            for metric in line["values"].get(ranker) or {}
        )
    )
    rows = [
        [query, line["text"], *((line["values"].get(ranker) or {}).get(metric) for ranker, metric in keys)]
        for query, line in list(queries.items())[:MAX_ROWS]
    ]
    return TableRows(["query_id", "query", *(f"{ranker} {metric}" for ranker, metric in keys)], rows)


def _rankers(queries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = {ranker for line in queries.values() for ranker in line["values"]}
    return [ranker for ranker in RANKERS if ranker in known]
