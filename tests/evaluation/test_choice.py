"""The arithmetic of a choice: the Pareto front against its definition, ties, costs, how few queries say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.choice import LEVEL, can_tell, cheapest, compare_with_best, is_worse, pareto_front
from evaluation.significance import PairedTest, paired_test


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_point_dominates(seed):
    rng = np.random.default_rng(seed)
    points = {f"p{i}": (float(q), [float(a), float(b)]) for i, (q, a, b) in enumerate(rng.integers(0, 4, (9, 3)))}
    expected = []
    for name, (quality, costs) in points.items():
        others = [point for other, point in points.items() if other != name]
        at_least = [p for p in others if p[0] >= quality and all(x <= y for x, y in zip(p[1], costs, strict=True))]
        if not any(p[0] > quality or any(x < y for x, y in zip(p[1], costs, strict=True)) for p in at_least):
            expected.append(name)
    assert pareto_front(points) == expected
    assert len(expected) >= 1


def test_a_point_whose_cost_is_not_known_is_neither_on_the_front_nor_above_others():
    assert pareto_front({"known": (0.2, [1.0]), "unknown": (0.9, [None])}) == ["known"]
    assert pareto_front({}) == []


def test_rankers_are_compared_with_the_best_and_corrected_together():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.9, 60)
    values = {
        "best": base,
        "close": base - 0.01 + rng.normal(0, 0.1, 60),
        "worse": base - 0.2 + rng.normal(0, 0.1, 60),
        "poor": base * 0.1,
    }
    per_query = {name: {f"q{i}": float(v) for i, v in enumerate(own)} for name, own in values.items()}
    found = compare_with_best(per_query)
    assert found.best == "best"
    assert found.tied == ["best", "close"]
    raw = {name: paired_test(per_query["best"], per_query[name]).p_value for name in ("close", "worse", "poor")}
    # Holm by hand: the two smallest times 3 and 2, each at least the one before.
    low, middle, high = sorted(raw, key=raw.get)
    expected = {low: 3 * raw[low]}
    expected[middle] = max(expected[low], 2 * raw[middle])
    expected[high] = max(expected[middle], raw[high])
    for name, p_value in expected.items():
        assert found.tests[name].p_value == pytest.approx(min(1.0, p_value))
    assert found.tests["best"] == PairedTest(0.0, 0.0, 0.0, 1.0)


def test_a_ranker_far_below_is_not_tied_because_few_queries_differ():
    best = {f"q{i}": 1.0 for i in range(6)}
    found = compare_with_best({"best": best, "bad": {**dict.fromkeys(best, 0.0), "q0": 1.0}, "same": best})
    assert found.tests["bad"].p_value >= LEVEL
    assert found.untold == {"bad"}
    assert found.tied == ["best", "same"]


def test_one_ranker_is_the_best_and_none_is_an_error():
    assert compare_with_best({"only": {"q": 0.5}}).tied == ["only"]
    with pytest.raises(ValueError, match="no ranker"):
        compare_with_best({})


def test_a_better_one_is_never_worse():
    assert not is_worse(PairedTest(0.2, 0.1, 0.3, 0.0001))
    assert is_worse(PairedTest(-0.2, -0.3, -0.1, 0.0001))
    assert not is_worse(PairedTest(-0.2, -0.5, 0.1, LEVEL))


@pytest.mark.parametrize("queries", range(2, 9))
def test_too_few_queries_are_those_whose_largest_difference_has_a_p_value_above_the_level(queries):
    worst = paired_test({f"q{i}": 1.0 for i in range(queries)}, {f"q{i}": 0.0 for i in range(queries)})
    for comparisons in (1, 2, 4):
        assert can_tell(queries, comparisons) == (worst.p_value * comparisons < LEVEL)


def test_the_cheapest_is_the_first_of_equal_ones_and_no_unknown_one():
    costs = {"a": None, "b": 2.0, "c": 1.0, "d": 1.0}
    assert cheapest(["a", "b", "c", "d"], costs) == "c"
    assert cheapest(["a"], costs) == "a"
    assert cheapest(["a", "b"], {"a": 0.0, "b": -3.0}) == "b"
