"""What a run's summary says of its test suite."""

from runs.report.other_sets import lines_of_other_sets


def test_a_part_of_a_corpus_and_missing_rankers_are_said():
    part = {"documents": 1000, "of": 52000, "seed": 0}
    none = {"first_stage": None, "before": None}
    sets = {
        "far": {
            "queries": 1200,
            "first_stage": None,
            "before": None,
            "after": {"MAP": 0.25},
            "note": "",
            "partial": part,
        },
        "near": {"queries": 8, **none, "first_stage": {"MAP": 0.5}, "after": {"MAP": 0.75}, "note": "seen"},
    }
    assert lines_of_other_sets({"metric": "MAP", "test_suite": sets}) == [
        "other data sets (test_suite)",
        "",
        "MAP            queries  first stage   after",
        "-------------------------------------------",
        "far (partial)    1,200            -  0.2500",
        "near                 8       0.5000  0.7500",
        "far: partial: 1,000 of 52,000 documents; values are higher than over the whole",
        "near: seen",
    ]
    assert lines_of_other_sets({"metric": "MAP"}) == []
