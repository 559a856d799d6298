"""Choose among rankers: which are tied with the best, which no other beats in quality and cost, which is cheapest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.significance import PairedTest, PerQuery, corrected, paired_test

LEVEL = 0.05  # of the corrected p-value, below which a ranker is worse than the best


@dataclass(frozen=True)
class Comparison:
    """The best ranker by its mean, and the paired test of every other one against it (`after` is the other).

    `untold`: those whose interval lies below the best, while so few queries differ that no test could say so.
    """

    best: str
    tests: dict[str, PairedTest]
    untold: frozenset[str] = frozenset()

    @property
    def tied(self) -> list[str]:
        """The best and all that are neither significantly worse nor `untold`, in the order that they were given in."""
        return [name for name, test in self.tests.items() if not is_worse(test) and name not in self.untold]


def compare_with_best(values: Mapping[str, PerQuery]) -> Comparison:
    """Compare rankers by the values of one metric on the same queries, `values[ranker][query]`.

    The tests are corrected together by Holm's method. That of the best with itself has difference 0 and p = 1. Of equal
    means the first given is the best. Raises ValueError if there is none, or if the queries differ.
    """
    if not values:
        raise ValueError("there is no ranker to compare")
    means = {name: sum(own.values()) / len(own) for name, own in values.items()}
    best = max(means, key=lambda name: means[name])
    tests = corrected({name: paired_test(values[best], own) for name, own in values.items() if name != best})
    differing = {name: sum(values[name][query] != value for query, value in values[best].items()) for name in tests}
    untold = {
        name for name, test in tests.items() if test.high < 0 and not can_tell(differing[name], len(tests))
    }  # equal values are no evidence, whose signs are flipped in vain
    tests = {name: tests.get(name, PairedTest(0.0, 0.0, 0.0, 1.0)) for name in values}
    return Comparison(best, tests, frozenset(name for name in untold if not is_worse(tests[name])))


def can_tell(queries: int, comparisons: int) -> bool:
    """Whether the smallest p-value that so many queries can give, corrected for the number of comparisons, is below
    LEVEL: the signs of n differences are flipped in 2^n ways, of which two are as extreme as all of one sign."""
    return 2.0 ** (1 - queries) * max(comparisons, 1) < LEVEL


def is_worse(test: PairedTest) -> bool:
    """Whether a test finds its second ranker worse than its first."""
    return test.difference < 0 and test.p_value < LEVEL


def pareto_front(points: Mapping[str, tuple[float, Sequence[float | None]]]) -> list[str]:
    """The names of the points (quality, costs) that no other point dominates, in their order.

    A point dominates another if its quality is at least as high, no cost of it is higher, and one of these is strictly
    better. A cost of None is not known: the point is no part of the front and dominates none.

    >>> pareto_front({"good": (0.7, [9.0]), "cheap": (0.6, [1.0]), "neither": (0.6, [2.0])})
    ['good', 'cheap']
    """
    known = {name: point for name, point in points.items() if None not in point[1]}
    return [name for name, point in known.items() if not any(_dominates(other, point) for other in known.values())]


def _dominates(other: tuple[float, Sequence[float | None]], point: tuple[float, Sequence[float | None]]) -> bool:
    gains = [other[0] - point[0], *((cost or 0.0) - (own or 0.0) for cost, own in zip(point[1], other[1], strict=True))]
    return min(gains) >= 0 and max(gains) > 0


def cheapest(names: Sequence[str], costs: Mapping[str, float | None]) -> str:
    """The name with the lowest cost; of equal costs, the first. A cost that is not known is the highest."""
    return min(names, key=lambda name: (costs[name] is None, costs[name] or 0.0))
