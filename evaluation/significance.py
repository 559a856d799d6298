"""Compare two rankers on the same queries: a paired randomisation test and a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


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


def paired_test(
    before: Mapping[str, float], after: Mapping[str, float], *, resamples: int = 9999, seed: int = 0
) -> PairedTest:
    """Compare per-query values of one metric; both mappings must have the same queries.

    The p-value comes from Fisher's randomisation test, which flips the signs of the differences (Smucker, Allan and
    Carterette, CIKM 2007), the interval from the percentile bootstrap over queries. Both are drawn from `seed`.
    """
    if before.keys() != after.keys():
        raise ValueError(f"a paired test needs the same queries, got {len(before)} and {len(after)} different ones")
    from scipy.stats import bootstrap, permutation_test

    differences = np.array([after[query] - before[query] for query in sorted(before)])
    difference = float(differences.mean())
    if len(differences) < 2 or not differences.any():
        return PairedTest(difference, difference, difference, 1.0)
    options = {"n_resamples": resamples, "vectorized": True, "batch": 500}
    flips = permutation_test(
        (differences,), np.mean, permutation_type="samples", rng=np.random.default_rng(seed), **options
    )
    drawn = bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(seed), **options)
    interval = drawn.confidence_interval
    return PairedTest(difference, float(interval.low), float(interval.high), float(flips.pvalue))
