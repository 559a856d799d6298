"""Tests and intervals against the t test, enumeration, scipy and degenerate inputs."""

import itertools

import numpy as np
import pytest
from scipy import stats

from evaluation.significance import PairedTest, corrected, interval_of, paired_test, paired_test_of_sets


def _values(values):
    return {f"q{i:03}": float(value) for i, value in enumerate(values)}


def test_close_to_the_paired_t_test_on_many_queries():
    generator = np.random.default_rng(0)
    before = generator.uniform(size=200)
    after = before + generator.normal(0.02, 0.15, size=200)
    got = paired_test(_values(before), _values(after))
    expected = stats.ttest_rel(after, before)
    interval = expected.confidence_interval(0.95)
    assert got.difference == pytest.approx((after - before).mean())
    assert got.p_value == pytest.approx(expected.pvalue, abs=0.015)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), abs=0.003)
    assert paired_test(_values(before), _values(after)) == got


def test_equals_the_enumeration_of_all_sign_flips():
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.25, 0.15])
    means = [abs(np.mean(differences * flips)) for flips in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.array(means) >= differences.mean() - 1e-12)
    assert paired_test(_values(np.zeros(6)), _values(differences)).p_value == pytest.approx(expected)


def test_no_difference_is_no_evidence():
    same = _values([0.1, 0.5])
    assert paired_test(same, same).p_value == 1.0
    assert paired_test({"q": 0.0}, {"q": 1.0}).p_value == 1.0


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        paired_test({"a": 1.0}, {"b": 1.0})


def test_several_sets_weigh_alike_whatever_their_number_of_queries():
    first, second = np.array([0.3, -0.1]), np.array([0.2, 0.25, -0.15, 0.05])
    before = [_values(np.zeros(2)), _values(np.zeros(4))]
    got = paired_test_of_sets(before, [_values(first), _values(second)])
    assert got.difference == pytest.approx((first.mean() + second.mean()) / 2)
    flips = itertools.product((1, -1), repeat=6)
    means = [abs(np.mean(first * flip[:2]) + np.mean(second * flip[2:])) / 2 for flip in flips]
    assert got.p_value == pytest.approx(np.mean(np.array(means) >= got.difference - 1e-12))


def test_the_interval_is_that_of_scipy_and_of_enumerated_draws():
    values = np.random.default_rng(1).uniform(size=80)
    got = interval_of([_values(values)])
    drawn = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(5)).confidence_interval
    assert (got.low, got.high) == pytest.approx((drawn.low, drawn.high), abs=0.005)
    assert got.mean == pytest.approx(values.mean())
    few = [np.array([0.0, 1.0]), np.array([0.2, 0.4, 0.9])]
    means = [
        (np.mean(one) + np.mean(other)) / 2
        for one in itertools.product(few[0], repeat=2)
        for other in itertools.product(few[1], repeat=3)
    ]
    exact = np.quantile(means, (0.025, 0.975))
    got = interval_of([_values(own) for own in few])
    assert (got.low, got.high) == pytest.approx(tuple(exact), abs=0.02)


def test_one_query_or_equal_ones_have_no_width():
    assert interval_of([{"q": 0.5}]) == interval_of([_values([0.5, 0.5, 0.5])])
    assert str(interval_of([{"q": 0.5}])) == "0.5000 [0.5000, 0.5000]"


def test_correction_is_holms():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    got = corrected({name: PairedTest(0.1, 0.0, 0.2, p) for name, p in p_values.items()})
    assert {name: test.p_value for name, test in got.items()} == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert list(got) == list(p_values)
    assert corrected({"a": PairedTest(0.0, 0.0, 0.0, 1.0), "b": PairedTest(0.0, 0.0, 0.0, 0.9)})["b"].p_value == 1.0
