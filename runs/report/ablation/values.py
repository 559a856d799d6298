"""Values of the runs of an ablation by configuration, seed and query, and entries of ablation.json made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from evaluation.ablation import Difference, Seeds, best_of, compare, estimate, shared_queries, tied_with

RANKER = "after"  # the trained model alone


def values_of_queries(queries: Mapping[str, Mapping[str, Any]], metric: str, ranker: str = RANKER) -> dict[str, float]:
    """The values of a ranker. A query is its id with its text, since other data have other queries of the same id."""
    own = {f"{query} {line['text']}": line["values"].get(ranker, {}).get(metric) for query, line in queries.items()}
    return {query: float(value) for query, value in own.items() if value is not None}


def on_queries(values: Mapping[str, Seeds], queries: Iterable[str]) -> dict[str, Seeds]:
    """The values on these queries alone."""
    queries = list(queries)
    return {
        name: {seed: {query: own[query] for query in queries} for seed, own in seeds.items()}
        for name, seeds in values.items()
    }


def number_of_queries(values: Mapping[str, Seeds]) -> int:
    """How many queries there are that any run has."""
    return len({query for seeds in values.values() for own in seeds.values() for query in own})


def about_queries(shared: int, total: int) -> list[str]:
    """What is to be said if only `shared` of `total` queries are in all runs."""
    if shared == total:
        return []
    if not shared:
        return ["the runs were evaluated on different test queries: they cannot be compared"]
    return [f"the test queries differ between runs: only the {shared:,} of {total:,} that all runs have are counted"]


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None if there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def pair_entry(difference: Difference) -> dict[str, Any]:
    """The entry of a pair in "pairs"."""
    test = asdict(difference.test)
    rest = {name: getattr(difference, name) for name in ("corrected", "counts", "seeds", "queries", "least")}
    return {"first": difference.first, "second": difference.second, **test, **rest}


def compared(values: Mapping[str, Seeds], different: Sequence[str] = ()) -> dict[str, Any]:
    """The statistics of configurations, given their values by seed and query: {"queries", "best", "tied",
    "configurations": {name: {"mean", "low", "high", "std", "seeds": {seed: value}}}, "pairs", "warnings"}. Holm's
    correction is for these pairs alone. There are no pairs and no best one if the runs searched `different` documents
    (`searched.about_searched`)."""
    shared, total = shared_queries(values), number_of_queries(values)
    common = on_queries(values, shared) if shared else {}
    estimates = {name: estimate(seeds) for name, seeds in common.items()}
    differences = [] if different else compare(common)
    alike = common and not different
    best = best_of({name: each.interval.mean for name, each in estimates.items()}) if alike else None
    return {
        "queries": len(shared),
        "best": best,
        "tied": tied_with(best, list(estimates), differences) if best else [],
        "configurations": {
            name: {
                "mean": each.interval.mean,
                "low": each.interval.low,
                "high": each.interval.high,
                "std": each.spread,
                "seeds": {str(seed): mean_of(own.values()) for seed, own in sorted(common[name].items())},
            }
            for name, each in estimates.items()
        },
        "pairs": [pair_entry(each) for each in differences],
        "warnings": [*different, *about_queries(len(shared), total)],
    }
