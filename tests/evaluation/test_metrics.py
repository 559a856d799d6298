"""Metrics against values computed by hand, ties, absent queries, misspelt names."""

import math

import pytest

from evaluation.metrics import measure, parse_metric, rank

QRELS = {"q1": {"a": 2, "b": 1, "z": 0}, "q2": {"c": 1}}


def test_values_by_hand():
    run = {"q1": {"x": 3.0, "b": 2.0, "a": 1.0}, "q2": {"c": 0.5, "y": 0.1}}
    got = measure(QRELS, run, ["nDCG@10", "MRR@10", "MAP", "recall@2"])
    ndcg = (1 / math.log2(3) + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert got.per_query["nDCG@10"] == pytest.approx({"q1": ndcg, "q2": 1.0})
    assert got.per_query["MRR@10"] == pytest.approx({"q1": 0.5, "q2": 1.0})
    assert got.per_query["MAP"] == pytest.approx({"q1": (1 / 2 + 2 / 3) / 2, "q2": 1.0})
    assert got.per_query["recall@2"] == pytest.approx({"q1": 0.5, "q2": 1.0})
    assert got.mean["nDCG@10"] == pytest.approx((ndcg + 1) / 2)
    assert got["NDCG@10"] == got.mean["nDCG@10"]
    first = measure(QRELS, run, ["precision@2", "accuracy@1", "accuracy@2"])
    assert first.per_query["precision@2"] == {"q1": 0.5, "q2": 0.5}
    assert first.per_query["accuracy@1"] == {"q1": 0.0, "q2": 1.0}
    assert first.per_query["accuracy@2"] == {"q1": 1.0, "q2": 1.0}


def test_judged_queries_absent_from_the_run_count_as_zero():
    got = measure(QRELS, {"q2": {"c": 1.0}}, ["nDCG@10", "MRR@10"])
    assert got.mean == pytest.approx({"nDCG@10": 0.5, "MRR@10": 0.5})
    assert measure(QRELS, {"q2": {"c": 1.0}, "unjudged": {"c": 1.0}}, ["MAP"]).mean == pytest.approx({"MAP": 0.5})
    assert measure(QRELS, {"q1": {}, "q2": {"c": 1.0}}, ["MAP"]).mean == pytest.approx({"MAP": 0.5})


def test_means_over_some_of_the_queries():
    got = measure(QRELS, {"q2": {"c": 1.0}}, ["MRR@10", "MAP"])
    assert got.over(["q2"]).mean == {"MRR@10": 1.0, "MAP": 1.0}
    assert got.over(["q1"]).per_query["MAP"] == {"q1": 0.0}
    assert got.over(QRELS) == got


def test_ties_do_not_depend_on_the_order_the_names_or_the_backend():
    documents = [f"d{i}" for i in range(20)]
    forwards = rank("q", dict.fromkeys(documents, 1.0))
    assert forwards == rank("q", dict.fromkeys(reversed(documents), 1.0))
    assert forwards not in (sorted(documents), sorted(documents, reverse=True))
    # A model that ties everything is worth what chance is worth, wherever the relevant document is named or listed.
    queries = [f"q{i}" for i in range(400)]
    for relevant in ("d0", "d9"):
        got = measure(
            {query: {relevant: 1} for query in queries},
            {query: dict.fromkeys([f"d{i}" for i in range(10)], 0.0) for query in queries},
            ["MRR@10", "MAP"],
        )
        expected = sum(1 / position for position in range(1, 11)) / 10
        assert got["MRR@10"] == pytest.approx(expected, abs=0.05)
        assert got["MRR@10"] == pytest.approx(got["MAP"])  # two backends, one order


def test_scores_closer_than_float32_are_told_apart():
    run = {"q": {"a": 1.0, "b": 1.0 + 1e-12}}
    assert measure({"q": {"b": 1}}, run, ["MRR@10", "nDCG@10"]).mean == {"MRR@10": 1.0, "nDCG@10": 1.0}


def test_names_in_any_case():
    names = {"ndcg@5": "nDCG@5", "MRR@10": "MRR@10", "map": "MAP", "Map@100": "MAP@100", "Recall@20": "recall@20"}
    assert {name: parse_metric(name).name for name in names} == names
    assert [parse_metric(name).cutoff for name in names] == [5, 10, None, 100, 20]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ndgc@10", "did you mean nDCG@10"), ("recal@5", "recall@10"), ("nDCG", "nDCG@10"), ("recall@0", "recall@k")],
)
def test_a_misspelt_name_is_refused_with_the_nearest_and_all_families(name, hint):
    with pytest.raises(
        ValueError, match="valid are nDCG@k, MRR@k, MAP, MAP@k, recall@k, precision@k and accuracy@k"
    ) as error:
        parse_metric(name)
    assert hint in str(error.value)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="'q2' has a score that is not finite"):
        measure(QRELS, {"q2": {"c": float("nan")}}, ["MAP"])


def test_no_judged_query_is_refused():
    with pytest.raises(ValueError, match="no judged queries"):
        measure({}, {}, ["MAP"])
