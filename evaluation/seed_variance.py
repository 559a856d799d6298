"""How much the means of runs vary with the seed, pooled over configurations, and which configurations vary far more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

OUTLYING = 0.05  # the level of the test, that of ISO 5725-2 for a laboratory whose variance is a straggler
ROUNDING = 1e-12  # a smaller share of a sum of squares is rounding


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a seed's mean within its configuration once what all configurations have in common at that seed
    is taken out, with its degrees of freedom (0: it cannot be known)."""

    variance: float
    freedom: int


NOT_POOLED = SeedVariance(0.0, 0)


@dataclass(frozen=True)
class _Squares:
    """Sums of squares of the means of runs after those of their configurations are taken out: of the means, of their
    products with the seeds, and of the seeds. Those of several configurations add up."""

    of_means: float
    products: np.ndarray  # [seeds]
    of_seeds: np.ndarray  # [seeds, seeds]
    runs: int  # above the first one of each configuration

    def __add__(self, other: _Squares) -> _Squares:
        runs = self.runs + other.runs
        return _Squares(
            self.of_means + other.of_means, self.products + other.products, self.of_seeds + other.of_seeds, runs
        )

    @cached_property
    def residual(self) -> tuple[float, int]:
        """The sum of squares that the seeds leave, and its degrees of freedom."""
        if not self.runs:
            return 0.0, 0
        solution, _, rank, _ = np.linalg.lstsq(self.of_seeds, self.products, rcond=1e-9)
        left = self.of_means - float(self.products @ solution)
        return left if left > ROUNDING * self.of_means else 0.0, self.runs - int(rank)


class SeedVariances:
    """The means of runs, `means[configuration][seed]`, with the additive model configuration + seed by least squares:
    runs may be missing."""

    def __init__(self, means: Mapping[str, Mapping[int, float]]) -> None:
        seeds = sorted({seed for own in means.values() for seed in own})
        self.squares = {name: _squares(own, seeds) for name, own in means.items()}

    def pooled(self, left_out: Collection[str] = ()) -> SeedVariance:
        """The residual variance of all configurations but those that are left out."""
        sum_of_squares, freedom = self._residual(left_out)
        return SeedVariance(sum_of_squares / freedom if freedom else 0.0, freedom)

    def outlying(self) -> list[str]:
        """The configurations whose seeds vary far more than those of the others, at most half of them.

        One after the other, the configuration is taken out whose variance is the largest beside that of those that
        stay: by the F test of the sum of squares that goes with it,

            F = ((RSS_with - RSS_without) / (df_with - df_without)) / (RSS_without / df_without).

        The outlying ones are those up to the last step whose p-value is below .05, by Bonferroni's correction for all
        that could have been taken out: so several that vary do not hide each other (as in the generalized ESD test of
        Rosner, Technometrics 25, 1983; one step is Cochran's test of ISO 5725-2 for seeds that are paired).
        """
        taken: list[str] = []
        found, subsets = 0, 1.0
        names = list(self.squares)
        for step in range(1, len(names) // 2 + 1):
            subsets *= (len(names) - step + 1) / step
            tests = {name: self._p_value(taken, name) for name in names if name not in taken}
            name = min(tests, key=lambda name: tests[name])
            taken.append(name)
            if tests[name][0] * step * subsets < OUTLYING:
                found = step
        return taken[:found]

    def _p_value(self, taken: Collection[str], name: str) -> tuple[float, float]:
        """The p-value of the variance of `name` beside that of those that stay, and -F, for p-values of 0."""
        from scipy.special import fdtrc

        with_it, of_all = self._residual(taken)
        without, of_others = self._residual([*taken, name])
        own, of_own = with_it - without, of_all - of_others
        if not of_own or not of_others or own <= 0.0:
            return 1.0, 0.0
        ratio = own / of_own / max(without / of_others, 1e-24)
        return float(fdtrc(of_own, of_others, ratio)), -ratio

    def _residual(self, left_out: Collection[str]) -> tuple[float, int]:
        kept = [squares for name, squares in self.squares.items() if name not in left_out]
        if not kept:
            return 0.0, 0
        total = kept[0]
        for squares in kept[1:]:
            total = total + squares
        return total.residual


def _squares(own: Mapping[int, float], seeds: list[int]) -> _Squares:
    if not own:
        return _Squares(0.0, np.zeros(len(seeds)), np.zeros((len(seeds), len(seeds))), 0)
    design = np.array([[float(seed == column) for column in seeds] for seed in own])
    design -= design.mean(axis=0)
    means = np.array(list(own.values()))
    means = means - means.mean()
    return _Squares(float(means @ means), design.T @ means, design.T @ design, len(own) - 1)
