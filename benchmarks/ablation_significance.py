"""How often the tests of an ablation (evaluation/ablation.py) are right, in simulations with a known truth.

    python benchmarks/ablation_significance.py

Values are drawn like those of nDCG@10: bounded, with many 0 and 1. A value is the sum of the difficulty of its query,
of what a configuration does to a query, of what a seed does to all queries and to one (in all configurations, and in
one alone) and of noise, cut to [0, 1]. False findings: the share of simulations in which any pair of configurations
that are equal in expectation differs after Holm's correction. Beside it is how often 95% intervals hold the truth.
Found: the share of the pairs with a true difference that are found. The other tests count queries alone (paired t over
queries of the seeds' means), seeds alone (paired t over the seeds' means), and both with the seeds of the pair alone,
not pooled.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scipy.stats import ttest_rel

from evaluation.ablation import compare, estimate

LEVEL = 0.05
QUERY, CONFIGURATION_QUERY, SEED_QUERY, NOISE = 0.6, 0.15, 0.1, 0.2  # standard deviations
DIVERGING = 0.15  # that of the seeds of a configuration that diverges
Method = Callable[[np.ndarray], np.ndarray]  # values [configurations, seeds, queries] -> p-value of each pair


@dataclass(frozen=True)
class Scenario:
    """What is drawn. `seed`: the standard deviation of a run's seed, `shared`: of a seed in all configurations,
    `noisy`: how many times as much the last configuration varies, `diverging`: how many of the last configurations are
    0.2 worse, with seeds that vary by .15 (their pairs are not counted), `collapse`: the share of runs that lose 0.4
    everywhere, `difference`: of the second half of the other configurations."""

    configurations: int = 10
    seeds: int = 3
    queries: int = 100
    seed: float = 0.03
    shared: float = 0.03
    noisy: float = 1.0
    diverging: int = 0
    collapse: float = 0.0
    difference: float = 0.0

    @property
    def sane(self) -> int:
        """How many configurations do not diverge."""
        return self.configurations - self.diverging


NULL = {
    "10 configurations, 3 seeds, 100 queries": Scenario(),
    "2 seeds": Scenario(seeds=2),
    "5 seeds": Scenario(seeds=5),
    "20 queries": Scenario(queries=20),
    "300 queries": Scenario(queries=300),
    "no seed effect": Scenario(seed=0.0, shared=0.0),
    "large seed effect (.1)": Scenario(seed=0.1),
    "large seed effect, 300 queries": Scenario(seed=0.1, queries=300),
    "one configuration varies 3 times as much": Scenario(noisy=3.0),
    "the same, seed effect .08": Scenario(noisy=3.0, seed=0.08),
    "1 run in 20 collapses": Scenario(collapse=0.05),
    "1 of 10 diverges": Scenario(diverging=1),
    "3 of 10 diverge": Scenario(diverging=3),
    "1 of 4 diverges, seed effect .01, 300 queries": Scenario(4, diverging=1, seed=0.01, queries=300),
    "3 configurations, seed effect .08": Scenario(configurations=3, seed=0.08),
    "2 configurations": Scenario(configurations=2),
    "2 configurations, seed effect .08": Scenario(configurations=2, seed=0.08),
    "2 configurations, 5 seeds, seed effect .08": Scenario(configurations=2, seeds=5, seed=0.08),
}
COVERED = [name for name, scenario in NULL.items() if not scenario.collapse]
TRUE = {
    "10 configurations, 3 seeds, 100 queries": Scenario(difference=0.1),
    "5 seeds": Scenario(difference=0.1, seeds=5),
    "300 queries": Scenario(difference=0.1, queries=300),
    "large seed effect (.08), difference .2": Scenario(difference=0.2, seed=0.08),
    "1 of 10 diverges": Scenario(difference=0.1, diverging=1),
    "3 of 10 diverge": Scenario(difference=0.1, diverging=3),
    "4 configurations": Scenario(difference=0.1, configurations=4),
    "5 configurations, of which 1 diverges": Scenario(5, difference=0.1, diverging=1),
    "2 configurations": Scenario(difference=0.1, configurations=2),
}


def drawn(rng: np.random.Generator, of: Scenario) -> np.ndarray:
    """Values [configurations, seeds, queries]."""
    c, s, q = of.configurations, of.seeds, of.queries
    scale, of_seed = np.ones((c, 1, 1)), np.full((c, 1, 1), of.seed)
    scale[-1] = of.noisy
    of_seed[of.sane :] = DIVERGING
    values = 0.5 + QUERY * rng.normal(size=(1, 1, q)) + CONFIGURATION_QUERY * rng.normal(size=(c, 1, q))
    values = values + SEED_QUERY * rng.normal(size=(1, s, q)) + scale * NOISE * rng.normal(size=(c, s, q))
    values = values + of.shared * rng.normal(size=(1, s, 1)) + scale * of_seed * rng.normal(size=(c, s, 1))
    values[of.sane // 2 : of.sane] += of.difference
    values[of.sane :] -= 0.2
    return np.clip(values - 0.4 * (rng.random((c, s, 1)) < of.collapse), 0.0, 1.0)


def as_values(table: np.ndarray) -> dict[str, dict[int, dict[str, float]]]:
    """The values as the tests take them."""
    return {
        f"c{number:02}": {
            seed: {f"q{place:04}": float(v) for place, v in enumerate(row)} for seed, row in enumerate(own)
        }
        for number, own in enumerate(table)
    }


def pairs_of(table: np.ndarray) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(len(table)), 2))


def of_both(table: np.ndarray) -> np.ndarray:
    """The p-values of all pairs, corrected by Holm's method, as those of the other tests."""
    return np.array([each.corrected for each in compare(as_values(table))])


def of_queries(table: np.ndarray) -> np.ndarray:
    return _paired_t(table.mean(axis=1))


def of_seeds(table: np.ndarray) -> np.ndarray:
    return _paired_t(table.mean(axis=2))


def of_own_seeds(table: np.ndarray) -> np.ndarray:
    return holm(np.array([compare(as_values(table[list(pair)]))[0].test.p_value for pair in pairs_of(table)]))


METHODS = {"queries and seeds": of_both, "queries": of_queries, "seeds": of_seeds, "own seeds": of_own_seeds}


def _paired_t(values: np.ndarray) -> np.ndarray:
    """The paired t test of values [configurations, samples]."""
    first, second = np.array(pairs_of(values)).T
    return holm(ttest_rel(values[second], values[first], axis=1).pvalue)


def holm(values: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    found = np.empty(len(values))
    found[order] = np.minimum(raised, 1.0)
    return found


def false_findings(
    scenario: Scenario, simulations: int, methods: Mapping[str, Method] = MappingProxyType(METHODS)
) -> dict[str, float]:
    """The share of simulations with any finding, by test."""
    tables = [drawn(np.random.default_rng(seed), scenario) for seed in range(simulations)]
    sane = np.array([b < scenario.sane for _, b in pairs_of(tables[0])])
    shares = {name: [test(table)[sane].min() < LEVEL for table in tables] for name, test in methods.items()}
    return {name: float(np.mean(found)) for name, found in shares.items()}


def coverage(scenario: Scenario, simulations: int) -> dict[str, float]:
    """The share of 95% intervals that hold the true mean of a configuration (.5 by symmetry), and the true difference
    of two configurations (0), from the first ones of each simulation."""
    tables = [drawn(np.random.default_rng(seed), scenario) for seed in range(simulations)]
    means = [estimate(as_values(table[:1])["c00"]).interval for table in tables]
    differences = [compare(as_values(table))[0].test for table in tables]
    return {
        "mean": float(np.mean([each.low <= 0.5 <= each.high for each in means])),
        "difference": float(np.mean([each.low <= 0.0 <= each.high for each in differences])),
    }


def power(scenario: Scenario, simulations: int) -> dict[str, float]:
    """The share of the pairs with a true difference that are found, by test, and that difference."""
    half, sane = scenario.sane // 2, scenario.sane
    tables = [drawn(np.random.default_rng(seed), scenario) for seed in range(simulations)]
    truly = np.array([a < half <= b < sane for a, b in pairs_of(tables[0])])
    shares = {name: float(np.mean([test(each)[truly] < LEVEL for each in tables])) for name, test in METHODS.items()}
    return shares | {"difference": float(np.mean([table[half:sane].mean() - table[:half].mean() for table in tables]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    simulations = parser.parse_args().simulations
    print(f"| false findings | {' | '.join(METHODS)} |\n{'|---' * (len(METHODS) + 1)}|")
    for line in lines(NULL, false_findings, simulations):
        print(line, flush=True)
    print("\n| 95% intervals that hold the truth | mean | difference |\n|---|---|---|")
    for line in lines({name: NULL[name] for name in COVERED}, coverage, simulations):
        print(line, flush=True)
    print(f"\n| found | {' | '.join(METHODS)} | difference |\n{'|---' * (len(METHODS) + 2)}|")
    for line in lines(TRUE, power, simulations):
        print(line, flush=True)


def lines(scenarios: Mapping[str, Scenario], measure: Any, simulations: int) -> Iterator[str]:
    for name, scenario in scenarios.items():
        print(name, file=sys.stderr, flush=True)
        shares = measure(scenario, simulations)
        yield f"| {name} | {' | '.join(f'{value:.3f}'.lstrip('0') for value in shares.values())} |"


if __name__ == "__main__":
    main()
