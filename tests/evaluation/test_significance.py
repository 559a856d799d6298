"""The paired test against the t test, enumeration and degenerate inputs."""

import itertools

import numpy as np
import pytest
from scipy import stats

from evaluation.significance import paired_test


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
