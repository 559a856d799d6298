"""Queries that data sets share, by text."""

from data.overlap import shared_queries


def test_queries_that_sets_share_with_others_are_counted_by_text():
    sets = {"a": {"1": "What is BM25", "2": "who"}, "b": {"1": "who"}, "c": {}}
    others = {"train": iter(["what  is bm25", "where"]), "dev": ["WHO", "who"]}
    assert shared_queries(sets, others) == {
        "a": {"train": 1, "dev": 1},
        "b": {"train": 0, "dev": 1},
        "c": {"train": 0, "dev": 0},
    }
