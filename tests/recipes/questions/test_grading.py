"""Labels of written negatives from the scores of a teacher, by hand."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from data.collection import Collection, Split
from inference.questions.audit import Sample, WritingAudit
from recipes.questions.grading import graded_lists, mean_scores, written_id
from recipes.questions.task import Task, sampled

NEAR, FAR = "near_negative", "far_negative"


def task() -> Task:
    split = Split({"q": "what", "r": "who"}, {"q": {"a": 1, "b": 2, "c": 0}, "r": {"a": 1}}, {"q": [], "r": []})
    collection = Collection("x", {"a": "A", "b": "B", "c": "C"}, {"train": split}, "")
    return Task(collection, split, ["q", "r"], lambda _: {}, "document", is_passage=True, left_out=Counter())


def samples(*entries: tuple[str, str, float]) -> tuple[list[Sample], dict[str, dict[str, float]]]:
    """Texts of (kind, query, score), and the scores of all documents: relevant documents have 8 and 9."""
    made = [Sample(kind, query, number, f"text {number}", "") for number, (kind, query, _) in enumerate(entries)]
    scores: dict[str, dict[str, float]] = {"q": {"a": 8.0, "b": 9.0, "c": 1.0}, "r": {"a": 8.0}}
    for sample, (_, query, score) in zip(made, entries, strict=True):
        scores[query][written_id(sample)] = score
    return made, scores


def grade(entries, **options):
    made, scores = samples(*entries)
    settings = SimpleNamespace(**{"is_graded": True, "max_closeness": 0.9, **options})
    audit = WritingAudit(0)
    return graded_lists(settings, task(), made, scores, audit), audit


def test_a_label_is_the_whole_number_below_4_times_the_closeness():
    # m is 0, the median of the far ones; p is 8, the lowest relevant document
    entries = [(NEAR, "q", 1.0), (NEAR, "q", 2.0), (NEAR, "q", 6.5), (NEAR, "q", -5.0), (FAR, "q", 0.0)]
    (found,), audit = grade(entries)
    assert found.labels == {
        "a": 4,
        "b": 8,
        "c": 0,
        **{f"written {NEAR} {number} for q": label for number, label in enumerate([0, 1, 3, 0])},
        f"written {FAR} 4 for q": 0,
    }
    assert list(found.scores or {}) == list(found.labels)
    assert audit.kept == {NEAR: 4, FAR: 1}
    assert mean_scores([found])["relevant"] == {"number": 2, "mean": 8.5}
    assert mean_scores([found])["judged 0"] == {"number": 1, "mean": 1.0}


def test_a_text_as_near_as_a_relevant_document_is_left_out():
    (found,), audit = grade([(NEAR, "q", 7.2), (NEAR, "q", 7.1), (FAR, "q", 0.0)])
    assert audit.dropped == {"too_close": 1}
    assert sorted(found.written) == [f"written {FAR} 2 for q", f"written {NEAR} 1 for q"]


def test_a_query_whose_relevant_document_scores_like_a_far_text_is_left_out():
    found, audit = grade([(FAR, "q", 8.5), (FAR, "q", 8.5), (FAR, "r", 2.0)])
    assert found == []
    assert audit.dropped == {"disagrees": 3}


def test_labels_stay_as_they_are_judged_if_they_are_not_graded():
    (found,), _ = grade([(NEAR, "q", 6.0), (FAR, "q", 0.0)], is_graded=False)
    assert list(found.labels.values()) == [1, 2, 0, 0, 0]


@pytest.mark.parametrize("number", [None, 0, 3, 10, 11])
def test_a_larger_sample_holds_a_smaller_one_in_the_order_of_the_data(number):
    ids = [f"d{i}" for i in range(10)]
    found = list(sampled(ids, number, 1))
    assert found == [name for name in ids if name in found]
    assert len(found) == (10 if number is None else min(number, 10))
    assert set(found) <= set(sampled(ids, len(found) + 1, 1))
    assert sampled(ids, 3, 1) != sampled(ids, 3, 2)
