"""Compare two rankers on the same queries, of one data set or of several, and correct for many comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

PerQuery = Mapping[str, float]  # the values of one metric
RESAMPLES = 9999
AT_ONCE = 500  # resamples: bounds memory


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class PairedTest:
    """The mean of `after - before` over queries, its 95% interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        p_value = f"p = {self.p_value:.3f}" if self.p_value >= 0.001 else "p < .001"
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}], {p_value}"


def interval_of(sets: Sequence[PerQuery], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of a metric with its percentile bootstrap interval (Efron 1979), drawn from `seed`.

    Of several data sets it is the mean of their means, and queries are drawn within each: the sets are fixed, so the
    interval says nothing of other sets.
    """
    values = [_in_order(own, own) for own in sets]
    mean = _mean_of_means(values)
    if all(len(np.unique(own)) < 2 for own in values):
        return Interval(mean, mean, mean)
    return Interval(mean, *_bootstrap(values, resamples, seed))


def paired_test(before: PerQuery, after: PerQuery, *, resamples: int = RESAMPLES, seed: int = 0) -> PairedTest:
    """Compare per-query values of one metric; both mappings must have the same queries.

    The p-value comes from Fisher's randomisation test, which flips the signs of the differences (Smucker, Allan and
    Carterette, CIKM 2007), the interval from the percentile bootstrap over queries. Both are drawn from `seed`; few
    queries are enumerated (2^n flips are at most `resamples`).
    """
    return paired_test_of_sets([before], [after], resamples=resamples, seed=seed)


def paired_test_of_sets(
    before: Sequence[PerQuery], after: Sequence[PerQuery], *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedTest:
    """`paired_test` for the mean over data sets of their means: signs are flipped, and queries drawn, within each
    set."""
    for first, second in zip(before, after, strict=True):
        if first.keys() != second.keys():
            raise ValueError(f"a paired test needs the same queries, got {len(first)} and {len(second)} different ones")
    from scipy.stats import permutation_test

    pairs = zip(before, after, strict=True)
    sets = [_in_order(second, first) - _in_order(first, first) for first, second in pairs]
    difference, number = _mean_of_means(sets), sum(map(len, sets))
    if number < 2 or not any(own.any() for own in sets):
        return PairedTest(difference, difference, difference, 1.0)
    weighted = np.concatenate([own * number / (len(own) * len(sets)) for own in sets])  # their mean is the difference
    flips = permutation_test(
        (weighted,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        batch=AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return PairedTest(difference, *_bootstrap(sets, resamples, seed), float(flips.pvalue))


def corrected(tests: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
    """The tests with the p-values of Holm (1979), which hold for all of them together: the k-th smallest of m is
    multiplied by m - k + 1, and is at least the one before it."""
    highest, found = 0.0, {}
    for place, name in enumerate(sorted(tests, key=lambda name: tests[name].p_value)):
        highest = max(highest, min(1.0, tests[name].p_value * (len(tests) - place)))
        found[name] = replace(tests[name], p_value=highest)
    return {name: found[name] for name in tests}


def _in_order(values: PerQuery, queries: PerQuery) -> np.ndarray:
    return np.array([values[query] for query in sorted(queries)], dtype=np.float64)


def _mean_of_means(sets: Sequence[np.ndarray]) -> float:
    return float(np.mean([own.mean() for own in sets]))


def _bootstrap(sets: Sequence[np.ndarray], resamples: int, seed: int) -> tuple[float, float]:
    """The 2.5% and 97.5% quantiles of the mean of means, when queries are drawn with replacement within each set."""
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for start in range(0, resamples, AT_ONCE):
        size = min(AT_ONCE, resamples - start)
        means = [own[rng.integers(len(own), size=(size, len(own)))].mean(axis=1) for own in sets]
        drawn[start : start + size] = np.mean(means, axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
