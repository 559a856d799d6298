"""Fusion on constructed runs."""

import pytest

from evaluation.fusion import fit_weight, fuse, standardise
from evaluation.metrics import measure


def test_standardised_scores_have_mean_0_and_deviation_1_whatever_the_scale():
    scores = {"a": 1.0, "b": 2.0, "c": 6.0}
    shown = standardise(scores)
    assert sum(shown.values()) == pytest.approx(0)
    assert sum(value**2 for value in shown.values()) / 3 == pytest.approx(1)
    assert standardise({name: 100 * value - 7 for name, value in scores.items()}) == pytest.approx(shown)
    assert standardise({"a": 0.1, "b": 0.1, "c": 0.1}) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert standardise({}) == {}


def test_the_ends_of_the_weight_are_the_first_stage_and_the_model():
    first, model = {"q": {"a": 3.0, "b": 1.0}}, {"q": {"a": -5.0, "b": 5.0}}
    assert fuse(first, model, 0.0)["q"] == pytest.approx(standardise(first["q"]))
    assert fuse(first, model, 1.0)["q"] == pytest.approx(standardise(model["q"]))
    with pytest.raises(ValueError, match=r"\[0, 1\].*got 1.5"):
        fuse(first, model, 1.5)


def test_a_document_that_one_side_missed_takes_its_lowest_score():
    fused = fuse({"q": {"a": 3.0, "b": 1.0}}, {"q": {"b": 9.0, "c": 8.0}, "only": {"d": 1.0}}, 0.5)
    assert fused["q"] == pytest.approx({"a": 0.5 * 1 + 0.5 * -1, "b": 0.0, "c": -1.0})
    assert fused["only"] == {"d": 0.0}


def test_two_rankers_wrong_on_different_queries_are_best_together():
    """Each is confident where it is right and undecided where it is wrong."""
    qrels = {f"q{i}": {"good": 1} for i in range(10)}
    sure, unsure = {"good": 9.0, "bad": 0.0, "ugly": 0.1}, {"good": 0.9, "bad": 1.0, "ugly": 0.0}
    first = {query: sure if i % 2 else unsure for i, query in enumerate(qrels)}
    model = {query: unsure if i % 2 else sure for i, query in enumerate(qrels)}
    weight = fit_weight(first, model, qrels, "MRR@10")
    assert 0 < weight < 1
    assert measure(qrels, fuse(first, model, weight), ["MRR@10"])["MRR@10"] == 1.0
    assert measure(qrels, first, ["MRR@10"])["MRR@10"] < 0.8


def test_the_weight_of_a_useless_model_is_low_and_of_a_perfect_one_high():
    qrels = {"q": {"good": 1}}
    right, wrong = {"q": {"good": 1.0, "bad": 0.0}}, {"q": {"good": 0.0, "bad": 1.0}}
    assert fit_weight(right, wrong, qrels, "nDCG@10") < 0.5 < fit_weight(wrong, right, qrels, "nDCG@10")


def test_a_dev_split_that_cannot_tell_the_weights_apart_is_said(caplog):
    run = {"q": {"good": 1.0, "bad": 0.0}}
    assert fit_weight(run, run, {"q": {"other": 1}}, "MAP") == 0.5
    assert [record.getMessage() for record in caplog.records] == [
        "every fusion weight gives MAP 0.0000 on dev: the middle one is taken"
    ]
    fit_weight(run, {"q": {"good": 0.0, "bad": 1.0}}, {"q": {"good": 1}}, "MAP")
    assert len(caplog.records) == 1
