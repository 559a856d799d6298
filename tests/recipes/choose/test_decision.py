"""The decision on made-up rows: the cheapest of the tied, smaller forms, limits, failures, few queries."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from recipes.choose.config import MeasureOptions
from recipes.choose.decision import decide, resolution

QUERIES = 60


def row(label: str, ms: float, forms: dict[str, tuple[float, int]] | None = None, **more):
    """A row whose index and memory are given; `forms`: name -> (quality, bytes of the index)."""
    cost = {"query_ms_p50": ms, "query_ms_p95": 2 * ms, "documents_per_s": 10.0, "peak_memory_bytes": 1000}
    listed = [
        {
            "form": name,
            "suffix": "" if name == "fp32" else f"/{name}",
            "dim": 8,
            "quality": quality,
            "index_bytes": size,
        }
        for name, (quality, size) in (forms or {}).items()
    ]
    own = {"texts": None, "truncated": None, "parameters": 5, "price": None, "max_length": 9}
    return {
        "label": label,
        "kind": "embedder" if forms else "bm25",
        "cost": cost,
        "forms": listed,
        "index_bytes": 50,
        "metrics": {"nDCG@10": 0.5},
        **own,
        "declared": {"licence": "mit"},
        **more,
    }


def values(mean: float, noise: float = 0.02, queries: int = QUERIES, seed: int = 0) -> dict[str, float]:
    drawn = mean + np.random.default_rng(seed).normal(0, noise, queries)
    return {f"q{i}": float(value) for i, value in enumerate(drawn)}


def settings(**more):
    options = {"eval": MeasureOptions(), "limit": {}, "cost_by": "query_ms_p50", "form_loss": 0.01} | more
    return SimpleNamespace(**options)


FORMS = {"fp32": (0.7, 800), "int8": (0.7, 200), "binary": (0.5, 25)}
SLOW = {"nDCG@10": values(0.7), "nDCG@10/int8": values(0.7, seed=5), "nDCG@10/binary": values(0.5, seed=6)}
FAST = {"nDCG@10": values(0.699, seed=1), "nDCG@10/int8": values(0.698, seed=2), "nDCG@10/binary": values(0.5, seed=3)}
ROWS = [row("bm25", 0.1), row("slow", 9.0, FORMS), row("fast", 2.0, FORMS)]
PER_QUERY = {"bm25": {"nDCG@10": values(0.5, seed=4)}, "slow": SLOW, "fast": FAST}


def test_the_cheapest_of_the_tied_is_chosen_in_its_smallest_form_that_keeps_the_quality():
    found = decide(settings(), ROWS, PER_QUERY)
    assert found["tied"] == ["slow", "fast"]
    assert (found["chosen"], found["form"]) == ("fast", "int8")
    assert {label: each["verdict"] for label, each in found["verdicts"].items()} == {
        "bm25": "worse",
        "slow": "tied",
        "fast": "chosen",
    }
    assert "p < .001" in found["verdicts"]["bm25"]["reason"]
    assert found["verdicts"]["slow"]["reason"].endswith("query_ms_p50 9 ms, against query_ms_p50 2 ms")
    assert found["sentence"].startswith("fast, stored as int8: of the 2 that are tied")
    assert "200 B in place of 800 B" in found["sentence"]
    assert found["pareto"]["query_ms_p50"][0] == "bm25"
    assert 0 < resolution(found) < 0.03


def test_the_cost_is_a_choice():
    prices = [row("bm25", 0.1), row("slow", 9.0, FORMS, price=0.01), row("fast", 2.0, FORMS)]
    found = decide(settings(cost_by="price"), prices, PER_QUERY)
    assert found["chosen"] == "slow"
    assert "price not known, against price 0.010" in found["verdicts"]["fast"]["reason"]


def test_a_limit_leaves_the_largest_form_that_keeps_it():
    found = decide(settings(limit={"index_bytes": 300, "query_ms_p95": 5}), ROWS, PER_QUERY)
    assert found["verdicts"]["slow"]["verdict"] == "eliminated"
    assert "18 ms, above limit.query_ms_p95=5" in found["verdicts"]["slow"]["reason"]
    assert found["sentence"].endswith("; models that do not keep the limits do not count")
    assert (found["verdicts"]["fast"]["form"], found["chosen"]) == ("int8", "fast")
    found = decide(settings(limit={"index_bytes": 20}), ROWS, PER_QUERY)
    assert found["chosen"] is None
    assert "in its smallest form (binary) its index takes 25 B" in found["verdicts"]["fast"]["reason"]
    assert "50 B, above limit.index_bytes=20" in found["verdicts"]["bm25"]["reason"]


def test_the_form_that_stands_for_a_model_under_a_limit_is_the_best_and_not_the_largest_and_it_is_said():
    forms = {"fp32": (0.7, 800), "int8": (0.7, 200), "half": (0.6, 400)}
    rows = [row("bm25", 0.1), row("slow", 9.0, forms), row("fast", 2.0, {"fp32": (0.65, 100)})]
    slow = {"nDCG@10": values(0.7), "nDCG@10/int8": values(0.7, seed=5), "nDCG@10/half": values(0.6, seed=6)}
    per_query = PER_QUERY | {"slow": slow, "fast": {"nDCG@10": values(0.65, seed=7)}}
    found = decide(settings(limit={"index_bytes": 500}), rows, per_query)
    assert (found["chosen"], found["form"], found["verdicts"]["slow"]["form"]) == ("slow", "int8", "int8")
    assert found["verdicts"]["slow"]["reason"].endswith("; compared as int8, which keeps the limits")
    assert "compared as" not in found["verdicts"]["fast"]["reason"]


def test_a_failed_model_is_no_contender():
    rows = [*ROWS[:2], {"label": "fast", "name": "fast", "kind": "embedder", "error": "its scores are not finite"}]
    found = decide(settings(), rows, PER_QUERY)
    assert found["chosen"] == "slow"
    assert found["verdicts"]["fast"] == {"verdict": "failed", "reason": "failed: its scores are not finite"}


@pytest.mark.parametrize("queries", [3, 5])
def test_with_few_queries_the_best_is_chosen_and_not_the_cheapest(queries):
    few = {
        label: {name: {f"q{i}": own[f"q{i}"] for i in range(queries)} for name, own in metrics.items()}
        for label, metrics in PER_QUERY.items()
    }
    found = decide(settings(), ROWS, few)
    assert found["chosen"] == found["best"] != "bm25"
    assert found["form"] == "fp32"
    assert f"({queries} test queries: too few to tell" in found["sentence"]
    assert found["verdicts"]["bm25"]["verdict"] == "not told apart"
