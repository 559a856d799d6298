"""The comparison of configurations over queries and seeds, against t tests, least squares and a known truth."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from benchmarks.ablation_significance import METHODS, NULL, Scenario, as_values, drawn, false_findings
from evaluation.ablation import BOTH, NEITHER, QUERIES, SEEDS, best_of, compare, estimate, tied_with
from evaluation.seed_variance import SeedVariances

RNG = np.random.default_rng(0)


def _residual_sum(values, *factors):
    """The sum of squared residuals of the additive model of `factors` (arrays of levels), by least squares."""
    columns = [np.ones(values.size)]
    for levels in factors:
        columns += [(levels == level).astype(float) for level in np.unique(levels)]
    design = np.column_stack(columns)
    fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    return float(((values.ravel() - fitted) ** 2).sum())


def _mean_squares(table):
    """MS of seeds, queries and residual of a table [seeds, queries], as differences between nested models."""
    seeds, queries = table.shape
    of_seed, of_query = np.repeat(np.arange(seeds), queries), np.tile(np.arange(queries), seeds)
    both = _residual_sum(table, of_seed, of_query)
    ms_seed = (_residual_sum(table, of_query) - both) / (seeds - 1)
    ms_query = (_residual_sum(table, of_seed) - both) / (queries - 1)
    return ms_seed, ms_query, both / ((seeds - 1) * (queries - 1))


def _by_hand(table, ms_seed, freedom):
    """The t test of the mean of a table, with a given MS of seeds."""
    queries = table.shape[1]
    _, ms_query, ms_residual = _mean_squares(table)
    ms_seed, rest = max(ms_seed, ms_residual), max(ms_query - ms_residual, 0.0)
    error = math.sqrt((ms_seed + rest) / table.size)
    df = (ms_seed + rest) ** 2 / (ms_seed**2 / freedom + rest**2 / (queries - 1))
    half = error * stats.t.ppf(0.975, df)
    return table.mean(), table.mean() - half, table.mean() + half, 2 * stats.t.sf(abs(table.mean()) / error, df)


def test_one_query_is_the_t_test_over_seeds():
    table = RNG.normal(size=(2, 4, 1))
    [got] = compare(as_values(table))
    expected = stats.ttest_rel(table[1, :, 0], table[0, :, 0])
    interval = expected.confidence_interval(0.95)
    assert (got.counts, got.seeds, got.queries) == (SEEDS, 4, 1)
    assert (got.test.p_value, got.test.low, got.test.high) == pytest.approx((expected.pvalue, *interval))


def test_queries_that_differ_alike_are_the_t_test_over_seeds():
    first, of_seed = RNG.normal(size=(3, 50)), np.array([0.1, 0.3, 0.15])
    [got] = compare(as_values(np.stack([first, first + of_seed[:, None]])))
    assert got.counts == BOTH
    assert got.test.p_value == pytest.approx(stats.ttest_1samp(of_seed, 0.0).pvalue)


def test_one_seed_is_the_t_test_over_queries():
    table = RNG.normal(size=(2, 1, 30))
    [got] = compare(as_values(table))
    expected = stats.ttest_rel(table[1, 0], table[0, 0])
    interval = expected.confidence_interval(0.95)
    assert got.counts == QUERIES
    assert (got.test.p_value, got.test.low, got.test.high) == pytest.approx((expected.pvalue, *interval))
    assert got.least == pytest.approx((interval.high - interval.low) / 2)


def test_seeds_that_change_nothing_are_the_t_test_over_queries():
    table = np.repeat(RNG.normal(size=(2, 1, 30)), 3, axis=1)
    [got] = compare(as_values(table))
    assert got.test.p_value == pytest.approx(stats.ttest_rel(table[1, 0], table[0, 0]).pvalue)


@pytest.mark.parametrize("seed_effect", [0.0, 0.05, 0.3])
def test_two_configurations_are_the_two_way_analysis_of_their_differences(seed_effect):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(2, 3, 20)) + seed_effect * rng.normal(size=(2, 3, 1))
    [got] = compare(as_values(table))
    differences = table[1] - table[0]
    expected = _by_hand(differences, _mean_squares(differences)[0], 2)
    assert astuple(got.test) == pytest.approx(expected)
    assert got.corrected == got.test.p_value


@pytest.mark.parametrize("lost", [[], [(1, 2)], [(0, 0), (3, 0)]])
def test_the_variance_of_seeds_is_pooled_over_all_runs(lost):
    rng = np.random.default_rng(2)
    table = rng.normal(size=(4, 3, 25)) + 0.2 * rng.normal(size=(4, 3, 1))
    values = as_values(table)
    for configuration, seed in lost:
        del values[f"c{configuration:02}"][seed]
    cells = np.array([(c, s) for c in range(4) for s in range(3) if (c, s) not in lost])
    means = table.mean(axis=2)[tuple(cells.T)]
    freedom = len(cells) - 4 - 3 + 1
    pooled = 2 * 25 * _residual_sum(means, cells[:, 0], cells[:, 1]) / freedom
    got = {(each.first, each.second): each for each in compare(values)}
    for (first, second), each in got.items():
        seeds = sorted(values[first].keys() & values[second].keys())
        differences = (table[int(second[1:])] - table[int(first[1:])])[seeds]
        expected = _by_hand(differences, max(pooled, _mean_squares(differences)[0]), freedom)
        assert (each.counts, each.seeds) == (BOTH, len(seeds))
        assert astuple(each.test) == pytest.approx(expected)
    smallest = min(got.values(), key=lambda each: each.test.p_value)
    assert smallest.corrected == pytest.approx(min(1.0, 6 * smallest.test.p_value))


def _varying(spreads, *, seeds=3, queries=300):
    """Values of configurations whose seeds vary by `spreads`; the second one is 0.025 better."""
    rng = np.random.default_rng(4)
    table = 0.4 + 0.25 * rng.normal(size=(1, 1, queries)) + 0.02 * rng.normal(size=(len(spreads), seeds, queries))
    table += np.array(spreads)[:, None, None] * np.array([1.0, -1.0, 0.2, -0.4, 0.6])[None, :seeds, None]
    table[1] += 0.025
    return as_values(table)


@pytest.mark.parametrize(("spreads", "expected"), [([0.1], ["c03"]), ([0.1, 0.002, -0.002, 0.2], ["c03", "c06"])])
def test_configurations_that_diverge_do_not_hide_other_differences(spreads, expected):
    values = _varying([0.002, -0.002, 0.001, *spreads])
    del values["c02"][1]
    found = {(each.first, each.second): each for each in compare(values)}
    sane = {name: own for name, own in values.items() if name not in expected}
    alone = {(each.first, each.second): each for each in compare(sane)}
    assert sorted(found["c00", "c01"].left_out) == expected
    for pair, each in alone.items():
        assert astuple(found[pair].test) == pytest.approx(astuple(each.test))
    assert found["c00", "c01"].corrected < 0.05
    assert expected[0] not in found["c00", expected[0]].left_out
    assert not any(each.left_out for each in alone.values())


def test_of_equal_configurations_few_are_left_out():
    """Each of three steps has a level of at most .05. Values without any variance are none."""
    rng = np.random.default_rng(5)
    drawn_means = rng.normal(size=(200, 6, 3))
    found = [SeedVariances({f"{c}": dict(enumerate(own)) for c, own in enumerate(each)}) for each in drawn_means]
    assert np.mean([bool(each.outlying()) for each in found]) <= 0.1
    assert SeedVariances({"a": {1: 0.3, 2: 0.3}, "b": {1: 0.5, 2: 0.5}, "c": {1: 0.1}}).outlying() == []


def test_seeds_without_a_partner_are_not_counted():
    table = RNG.normal(size=(2, 4, 20))
    values = as_values(table)
    values = {"a": {1: values["c00"][0], 2: values["c00"][1]}, "b": {3: values["c01"][2], 4: values["c01"][3]}}
    [got] = compare(values)
    expected = stats.ttest_rel(table[1, 2:].mean(axis=0), table[0, :2].mean(axis=0))
    assert (got.counts, got.seeds) == (QUERIES, 0)
    assert got.test.p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 3, 1), (2, 1, 8), (2, 3, 8), (5, 2, 2)])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_values_without_variance_give_numbers(shape, shift):
    """Equal values are no evidence; of equal differences the signs are flipped."""
    table = np.full(shape, 0.3) + shift * np.arange(shape[0])[:, None, None]
    for each in compare(as_values(table)):
        assert np.isfinite([*astuple(each.test), each.corrected, each.least]).all()
        flips = 1.0 if shift == 0.0 or shape[2] == 1 else 2.0 ** (1 - shape[2])
        assert each.test.p_value == pytest.approx(flips)
        assert each.test.low == each.test.high


def test_what_cannot_be_compared():
    assert compare({}) == compare({"a": {1: {"q": 0.5}}}) == []
    [got] = compare({"a": {1: {"q": 0.5}}, "b": {1: {"q": 0.7}}})
    assert (got.counts, got.corrected) == (NEITHER, 1.0)
    with pytest.raises(ValueError, match="share no query"):
        compare({"a": {1: {"p": 0.5}}, "b": {1: {"q": 0.7}}})
    with pytest.raises(ValueError, match="no value"):
        estimate({})


def test_an_interval_counts_queries_and_seeds():
    table = 0.5 + RNG.normal(size=(3, 40)) * 0.1 + 0.1 * RNG.normal(size=(3, 1))
    got = estimate(as_values(table[None])["c00"])
    mean, low, high, _ = _by_hand(table, _mean_squares(table)[0], 2)
    assert astuple(got.interval) == pytest.approx((mean, low, high))
    means = table.mean(axis=1)
    assert got.counts == BOTH
    assert (got.spread, got.lowest, got.highest) == pytest.approx((means.std(ddof=1), means.min(), means.max()))
    alone = estimate({7: {"a": 0.0, "b": 1.0}})
    assert (alone.counts, alone.spread) == (QUERIES, None)
    assert (alone.interval.low, alone.interval.high) == (0.0, 1.0)  # the bootstrap of two queries
    assert estimate({7: {"a": 0.4}}).counts == NEITHER
    of_seeds = estimate({1: {"a": 0.4}, 2: {"a": 0.5}, 3: {"a": 0.9}})
    expected = stats.ttest_1samp([0.4, 0.5, 0.9], 0.0).confidence_interval(0.95)
    assert (of_seeds.interval.low, of_seeds.interval.high) == pytest.approx(tuple(expected))


def test_tied_with_the_best():
    table = drawn(np.random.default_rng(3), Scenario(configurations=4, difference=0.5, seed=0.01, shared=0.0))
    means = {name: estimate(own).interval.mean for name, own in as_values(table).items()}
    best = best_of(means)
    assert tied_with(best, list(means), compare(as_values(table))) == ["c02", "c03"]


def test_equal_configurations_are_rarely_told_apart():
    """The quick form of benchmarks/ablation_significance.py. Tests that count queries alone fail it."""
    scenario = NULL["10 configurations, 3 seeds, 100 queries"]
    shares = false_findings(scenario, 60, {name: METHODS[name] for name in ("queries and seeds", "queries")})
    assert shares["queries and seeds"] <= 0.08 < shares["queries"]
