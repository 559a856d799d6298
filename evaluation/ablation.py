"""Compare configurations that were trained with several seeds, when queries and seeds are both samples.

Values are `values[configuration][seed][query]`, of one metric on one set of queries. A difference between two
configurations then varies with the queries that were asked and with the seeds that were trained, and an interval or a
test that counts only one of the two finds differences that another seed, or other queries, do not show again.
`benchmarks/ablation_significance.py` measures how often.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.seed_variance import NOT_POOLED, SeedVariance, SeedVariances
from evaluation.significance import Interval, PairedTest, PerQuery, corrected, interval_of, paired_test

Seeds = Mapping[int, PerQuery]  # seed -> query -> value
LEVEL = 0.05  # of the corrected p-value, below which two configurations differ
NOTHING = 1e-12  # a standard error below this is rounding
BOTH, QUERIES, SEEDS, NEITHER = "queries and seeds", "queries", "seeds", "nothing"


@dataclass(frozen=True)
class Estimate:
    """A configuration's mean over seeds and queries with its 95% interval, and what the interval `counts`.

    `spread` is the standard deviation of the seeds' means (None with one seed), `lowest` and `highest` their range.
    """

    interval: Interval
    counts: str
    spread: float | None
    lowest: float
    highest: float


@dataclass(frozen=True)
class Difference:
    """The test of `second - first`: its p-value alone (`test`) and `corrected` for all pairs, what it `counts`, the
    number of seeds and queries that both have, and the smallest difference that it could tell after correction.
    `left_out`: the configurations that vary far more, whose seeds it does not pool."""

    first: str
    second: str
    test: PairedTest
    corrected: float
    counts: str
    seeds: int
    queries: int
    least: float
    left_out: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        return self.corrected < LEVEL


def shared_queries(values: Mapping[str, Seeds]) -> list[str]:
    """The queries that every run has, sorted."""
    runs = [set(own) for seeds in values.values() for own in seeds.values()]
    return sorted(set.intersection(*runs)) if runs else []


def estimate(seeds: Seeds) -> Estimate:
    """The mean of one configuration over its seeds and the queries that they share.

    With several seeds the interval is that of `compare` for a table of values, from its own seeds alone. With one
    seed it is the bootstrap over queries (`evaluation.significance.interval_of`), with one query the t interval over
    seeds, and with one value it has no width and counts nothing. Raises ValueError if there is no seed, or no query
    that all seeds have.
    """
    queries = shared_queries({"": seeds})
    if not queries:
        raise ValueError("there is no value: give at least one seed, and queries that all seeds have")
    table = _table(seeds, sorted(seeds), queries)
    means = table.mean(axis=1)
    facts = (float(means.std(ddof=1)) if len(means) > 1 else None, float(means.min()), float(means.max()))
    if len(means) == 1:
        return Estimate(interval_of([seeds[min(seeds)]]), QUERIES if len(queries) > 1 else NEITHER, *facts)
    variance, freedom = _variance_of_mean(table, NOT_POOLED)
    half = math.sqrt(variance) * _quantile(0.975, freedom)
    mean = float(means.mean())
    return Estimate(Interval(mean, mean - half, mean + half), BOTH if len(queries) > 1 else SEEDS, *facts)


def compare(values: Mapping[str, Seeds]) -> list[Difference]:
    """Test all pairs of configurations, in their order, with p-values corrected for all of them by Holm's method.

    The analysis is that of studies with several readers and cases, with seeds as readers and queries as cases, both
    random (Dorfman, Berbaum and Metz 1992; degrees of freedom of Hillis, Statistics in Medicine 26, 2007). From the
    two-way table of the differences of a pair (S seeds x Q queries) with its mean squares MS,

        variance of the mean = (MS_seed + max(MS_query - MS_residual, 0)) / (S Q),

    and t has (MS_seed + q)^2 / (MS_seed^2 / df + q^2 / (Q - 1)) degrees of freedom, with q the second term. The part of
    the queries is the pair's own. The part of the seeds is, as in that analysis, pooled over all configurations, with
    df = (configurations - 1)(S - 1): the few seeds of one pair do not tell how seeds vary, and by their 2 degrees of
    freedom the smallest of many p-values is far too small. Since configurations may vary unequally, the largest of the
    pooled MS_seed, the pair's own one and MS_residual counts. A configuration that varies far more than the others
    (training that diverges; `SeedVariances.outlying`) counts in its own pairs alone: it would hide the differences of
    all others.

    Seeds are paired: a seed gives its runs the same order of data and the same fresh weights, so what it does to all
    configurations cancels (Bouthillier et al. 2021, arXiv:2103.03098, pair runs by what they share). If the seeds
    have nothing in common, pairing is still right. A pair is compared on the seeds that both have; seeds are counted
    from one shared seed on, since their variance is pooled. A pair without a shared seed, and all pairs if every
    configuration has one seed, get the paired t test over queries (of the mean over the seeds of each), which counts
    queries alone: sampled sign flips are too coarse for the correction of many pairs. With one query it is the t test
    over seeds. If a pair's differences do not vary at all, signs are flipped (`evaluation.significance.paired_test`).

    Raises ValueError if the runs share no query.
    """
    if len(values) < 2:
        return []
    queries = shared_queries(values)
    if not queries:
        raise ValueError("the runs share no query: compare runs that were evaluated on the same data")
    pools = _Pools(values, queries)
    found = [_difference(pair, values, queries, pools) for pair in itertools.combinations(values, 2)]
    tests = corrected({str(place): each.test for place, each in enumerate(found)})
    return [replace(each, corrected=tests[str(place)].p_value) for place, each in enumerate(found)]


def best_of(means: Mapping[str, float]) -> str:
    """The configuration with the highest mean; of equal ones the first."""
    return max(means, key=lambda name: means[name])


def tied_with(best: str, names: Sequence[str], differences: Sequence[Difference]) -> list[str]:
    """`best` and those of `names` that no test tells apart from it, in their order."""
    pairs = [{each.first, each.second} for each in differences if each.found]
    apart = {name for pair in pairs if best in pair for name in pair - {best}}
    return [name for name in names if name not in apart]


def _difference(pair: tuple[str, str], values: Mapping[str, Seeds], queries: list[str], pools: _Pools) -> Difference:
    first, second = (values[name] for name in pair)
    seeds = sorted(first.keys() & second.keys())
    pooled, left_out = pools.of(pair)
    if seeds:
        table = _table(second, seeds, queries) - _table(first, seeds, queries)
    else:
        means = [_table(own, sorted(own), queries).mean(axis=0, keepdims=True) for own in (first, second)]
        table, pooled, left_out = means[1] - means[0], NOT_POOLED, ()
    of_queries = len(queries) > 1
    counts = (BOTH if of_queries else SEEDS) if pooled.freedom else QUERIES if of_queries else NEITHER
    test, least = _test(table, pooled, len(values) * (len(values) - 1) // 2)
    return Difference(*pair, test, test.p_value, counts, len(seeds), len(queries), least, left_out)


def _test(table: np.ndarray, pooled: SeedVariance, pairs: int) -> tuple[PairedTest, float]:
    """The test of the mean of differences [seeds, queries], and the least difference that is told among so many
    pairs."""
    from scipy.special import stdtr

    variance, freedom = _variance_of_mean(table, pooled)
    error, mean = math.sqrt(variance), float(table.mean())
    if error < NOTHING:
        of_queries = {f"{place:09}": float(value) for place, value in enumerate(table.mean(axis=0))}
        return paired_test(dict.fromkeys(of_queries, 0.0), of_queries), 0.0
    half = error * _quantile(0.975, freedom)
    p_value = float(2 * stdtr(freedom, -abs(mean) / error))
    return PairedTest(mean, mean - half, mean + half, p_value), error * _quantile(1 - LEVEL / 2 / pairs, freedom)


def _variance_of_mean(table: np.ndarray, pooled: SeedVariance) -> tuple[float, float]:
    """The variance of the mean of values [seeds, queries] whose seeds and queries are both random, and its degrees of
    freedom (`compare` has the formula)."""
    num_seeds, num_queries = table.shape
    mean, of_seeds, of_queries = table.mean(), table.mean(axis=1), table.mean(axis=0)
    residual = table - of_seeds[:, None] - of_queries[None, :] + mean
    cells = (num_seeds - 1) * (num_queries - 1)
    ms_residual = float((residual**2).sum() / cells) if cells else 0.0
    ms_query = float(num_seeds * of_queries.var(ddof=1)) if num_queries > 1 else 0.0
    ms_seed = max(float(num_queries * of_seeds.var(ddof=1)), ms_residual) if num_seeds > 1 else 0.0
    ms_seed = max(ms_seed, 2 * num_queries * pooled.variance)  # a difference has the variance of two seeds
    freedom_of_seeds = max(num_seeds - 1, pooled.freedom)
    part_of_queries = max(ms_query - ms_residual, 0.0)
    total = ms_seed + part_of_queries
    if not total:
        return 0.0, math.inf
    spread = ms_seed**2 / freedom_of_seeds if ms_seed else 0.0
    spread += part_of_queries**2 / (num_queries - 1) if part_of_queries else 0.0
    return total / (num_seeds * num_queries), total**2 / spread


class _Pools:
    """The variance of seeds that counts for a pair: pooled over all configurations but those outside the pair whose
    seeds vary far more than those of the others."""

    def __init__(self, values: Mapping[str, Seeds], queries: list[str]) -> None:
        means = {
            name: {seed: float(np.mean([one[query] for query in queries])) for seed, one in own.items()}
            for name, own in values.items()
        }
        self._variances = SeedVariances(means)
        self._outlying = self._variances.outlying()
        self._known: dict[tuple[str, ...], SeedVariance] = {}

    def of(self, pair: tuple[str, str]) -> tuple[SeedVariance, tuple[str, ...]]:
        """The pooled variance, and the configurations that it leaves out."""
        left_out = tuple(name for name in self._outlying if name not in pair)
        if left_out not in self._known:
            self._known[left_out] = self._variances.pooled(left_out)
        return self._known[left_out], left_out


def _quantile(level: float, freedom: float) -> float:
    """The quantile of Student's t distribution."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(level) if math.isinf(freedom) else stdtrit(freedom, level))


def _table(own: Seeds, seeds: Sequence[int], queries: Sequence[str]) -> np.ndarray:
    """The values as an array [seeds, queries]."""
    return np.array([[own[seed][query] for query in queries] for seed in seeds], dtype=np.float64)
