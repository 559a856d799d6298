"""The tables of a run: which queries are the best and the worst, and what their rows hold."""

from __future__ import annotations

from runs.loggers.wandb_tables import tables_of

RANKERS = ("first_stage", "before", "after")
SUMMARY = {
    "metric": "MAP",
    "metrics": {"before": {"MAP": 0.2, "MRR": 0.3}, "after": {"MAP": 0.6, "MRR": 0.7}, "first_stage": {"MAP": 0.5}},
    "tests": {"after_vs_first_stage": {"difference": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.04}},
}


def query(first_stage: float, after: float, documents: int = 2) -> dict:
    side = [{"id": f"d{place}", "grade": place, "text": f"text {place}"} for place in range(documents)]
    return {
        "text": "a query",
        "values": {"after": {"MAP": after, "MRR": 1.0}, "first_stage": {"MAP": first_stage}, "before": {"MAP": 0.0}},
        "documents": {"before": side[:1], "after": side},
    }


def test_results_and_tests_have_a_row_each():
    tables = tables_of(SUMMARY, {})
    assert sorted(tables) == ["results/metrics", "results/tests"]
    metrics, tests = tables["results/metrics"], tables["results/tests"]
    assert metrics.columns == ["ranker", "MAP", "MRR"]
    assert metrics.rows == [["first_stage", 0.5, None], ["before", 0.2, 0.3], ["after", 0.6, 0.7]]
    assert tests.columns == ["comparison", "metric", "difference", "low", "high", "p_value"]
    assert tests.rows == [["after vs first_stage", "MAP", 0.1, 0.0, 0.2, 0.04]]


def test_the_best_and_the_worst_queries_are_those_of_the_largest_change():
    queries = {f"q{number}": query(0.5, 0.5 + number / 100) for number in range(-7, 8)}
    tables = tables_of(SUMMARY, queries)
    best, worst = (list(dict.fromkeys(row[0] for row in tables[f"queries/{name}"].rows)) for name in ("best", "worst"))
    assert best == ["q7", "q6", "q5", "q4", "q3"]
    assert worst == ["q-7", "q-6", "q-5", "q-4", "q-3"]


def test_a_row_holds_the_documents_of_a_rank_before_and_after():
    table = tables_of(SUMMARY, {"q": query(0.25, 0.75)})["queries/best"]
    sides = [f"{side} {field}" for side in ("before", "after") for field in ("document", "grade", "text")]
    assert table.columns == ["query_id", "query", "first_stage MAP", "before MAP", "after MAP", "rank", *sides]
    assert table.rows == [
        ["q", "a query", 0.25, 0.0, 0.75, 1, "d0", 0, "text 0", "d0", 0, "text 0"],
        ["q", "a query", 0.25, 0.0, 0.75, 2, None, None, None, "d1", 1, "text 1"],
    ]


def test_every_query_has_its_values():
    table = tables_of(SUMMARY, {"q": query(0.25, 0.75), "r": query(0.5, 0.5)})["queries/values"]
    assert table.columns == ["query_id", "query", "first_stage MAP", "before MAP", "after MAP", "after MRR"]
    assert table.rows == [["q", "a query", 0.25, 0.0, 0.75, 1.0], ["r", "a query", 0.5, 0.0, 0.5, 1.0]]


def test_without_documents_or_changes_there_are_no_extremes():
    queries = {"q": query(0.5, 0.5), "r": query(0.2, 0.4, documents=0)}
    assert sorted(tables_of(SUMMARY, queries)) == ["queries/values", "results/metrics", "results/tests"]
