"""Several data sets in one evaluation: the settings of each, and the mean over them with intervals and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluation.metrics import Metrics
from evaluation.significance import Interval, PairedTest, corrected, interval_of, paired_test, paired_test_of_sets
from recipes.evaluate.against_files import check_against, check_against_suite
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.rankers import own_ranker

MEAN = "mean"  # the row of the mean over the sets


@dataclass(frozen=True)
class MeasuredSet:
    """What is kept of a data set once its files are written: the summary, and the metrics of each ranker."""

    summary: dict[str, Any]
    results: dict[str, Metrics]


def check_one(settings: EvaluationConfig) -> None:
    """Raise ValueError if one data set would be compared with several."""
    if settings.against is not None:
        check_against(Path(settings.against).expanduser())


def check_suite(settings: EvaluationConfig, sets: Mapping[str, Any]) -> None:
    """Raise ValueError if a suite cannot be evaluated so: its mean is of values of rankings."""
    if not settings.eval.ranks:
        raise ValueError("eval=similarity measures one data set at a time: several (data=suite) are ranked")
    if settings.first_stages:
        raise ValueError("first_stages belong to one data set: evaluate those of a suite (data=suite) one at a time")
    if MEAN in sets:
        raise ValueError(f"data.sources: a set is called {MEAN}, as the mean over the sets: give it another name")
    if settings.output is not None and (unfit := [name for name in sets if "/" in name]):
        raise ValueError(f"data.sources: {unfit[0]}: files are called like the set: give it a name without /")
    if settings.against is not None:
        check_against_suite(Path(settings.against).expanduser(), list(sets))
        for name in sets:
            check_against(_of_name(settings.against, name))


def of_set(settings: EvaluationConfig, name: str, options: Any) -> EvaluationConfig:
    """The settings of one data set: its output is FILE.SET.json, as is that of the run that it is compared with. Labels
    that are degrees of similarity are refused, since their values have no mean with those of rankings."""
    output, against = (place and str(_of_name(place, name)) for place in (settings.output, settings.against))
    return replace(settings, data=options, output=output, against=against, eval_of_degrees=None)


def _of_name(file: str, name: str) -> Path:
    path = Path(file).expanduser()
    return path.with_name(f"{path.stem}.{name}.json")


def over_sets(settings: EvaluationConfig, sets: Mapping[str, MeasuredSet]) -> dict[str, Any]:
    """The results of a suite: `mean` over the sets of each ranker that all have, in the form of a set's summary; the
    summaries of the `sets`; the tests of single sets, with Holm's correction; and the lines of the `table`."""
    first = next(iter(sets.values()))
    results = [each.results for each in sets.values()]
    shared = {name: [each[name] for each in results] for name in first.results if all(name in r for r in results)}
    means = {name: _intervals(of_sets) for name, of_sets in shared.items()}
    metric = settings.eval.metric
    values = {name: [result.per_query[metric] for result in of_sets] for name, of_sets in shared.items()}
    pairs = list(dict.fromkeys(tuple(key.split("_vs_")) for each in sets.values() for key in each.summary["tests"]))
    mean = {
        **{key: first.summary[key] for key in ("name_or_path", "method", "metric", "split")},
        **{name: found[metric].mean for name, found in means.items()},
        "metrics": {name: {key: each.mean for key, each in found.items()} for name, found in means.items()},
        "intervals": {
            name: {key: [each.low, each.high] for key, each in found.items()} for name, found in means.items()
        },
        "tests": {
            f"{own}_vs_{other}": asdict(paired_test_of_sets(values[other], values[own]))
            for own, other in pairs
            if own in shared and other in shared
        },
        "test_queries": sum(each.summary["test_queries"] for each in sets.values()),
        **_of_candidates([each.summary for each in sets.values()]),
        **_partial({name: each.summary for name, each in sets.items()}),
    }
    by_set = {f"{own}_vs_{other}": _tests_by_set(sets, own, other, [metric]) for own, other in pairs}
    if settings.against is not None:
        own = own_ranker(first.results)
        tests = {key: _test_over_sets(shared, own, "against", key) for key in means["against"]}
        mean |= {"against_path": settings.against, "tests_against": _as_json(corrected(tests))}
        by_set[f"{own}_vs_against"] = _tests_by_set(sets, own, "against", list(tests))
    table = [line for name, each in sets.items() for line in _lines(name, each.summary)] + _lines(MEAN, mean)
    summaries = {name: each.summary for name, each in sets.items()}
    return {"mean": mean, "tests_by_set": by_set, "table": table, "sets": summaries}


def _of_candidates(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over sets of the recall of the candidates and of their best possible order, if all sets are reranked."""
    if any(each.get("recall_ceiling") is None or not each.get("ceiling") for each in summaries):
        return {}
    recalls, ceilings = ([each[key] for each in summaries] for key in ("recall_ceiling", "ceiling"))
    ceiling = {metric: fmean(own[metric] for own in ceilings) for metric in ceilings[0]}
    return {"recall_ceiling": fmean(recalls), "ceiling": ceiling}


def _partial(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sets of which only a part of the corpus was searched, and the method, which says so; nothing without such."""
    names = [name for name, each in summaries.items() if "partial" in each]
    return {"partial_sets": names, "method": summaries[names[0]]["method"]} if names else {}


def _intervals(results: Sequence[Metrics]) -> dict[str, Interval]:
    """The mean over sets of each metric that all have."""
    names = [name for name in results[0].per_query if all(name in result.per_query for result in results)]
    return {name: interval_of([result.per_query[name] for result in results]) for name in names}


def _test_over_sets(shared: Mapping[str, Sequence[Metrics]], own: str, other: str, metric: str) -> PairedTest:
    before, after = ([result.per_query[metric] for result in shared[name]] for name in (other, own))
    return paired_test_of_sets(before, after)


def _tests_by_set(
    sets: Mapping[str, MeasuredSet], own: str, other: str, metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The paired tests of each set that has both rankers, by metric, with Holm's correction for the number of all of
    them."""
    both = {name: each.results for name, each in sets.items() if {own, other} <= each.results.keys()}
    tests = {
        f"{name} {metric}": paired_test(results[other].per_query[metric], results[own].per_query[metric])
        for name, results in both.items()
        for metric in metrics
    }
    found = _as_json(corrected(tests))
    return {name: {metric: found[f"{name} {metric}"] for metric in metrics} for name in both}


def _as_json(tests: Mapping[str, PairedTest]) -> dict[str, dict[str, float]]:
    return {name: asdict(test) for name, test in tests.items()}


def _lines(name: str, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each number: its set, ranker and metric, the mean and its interval."""
    return [
        {"set": name, "ranker": ranker, "metric": metric, "mean": mean, "low": low, "high": high}
        for ranker, means in summary["metrics"].items()
        for metric, mean in means.items()
        for low, high in [summary["intervals"][ranker][metric]]
    ]
