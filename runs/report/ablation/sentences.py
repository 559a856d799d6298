"""What the results of an ablation say and do not say, in sentences; and all of it on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.ablation import BOTH, LEVEL, QUERIES, SEEDS, best_of
from runs.report.ablation.forms import about_forms, forms_table
from runs.report.ablation.other_sets import about_sets, sets_table
from runs.report.ablation.table import (
    in_order,
    in_words,
    main_table,
    short_names,
    shown_names,
    test_between,
)
from runs.report.table import aligned

NAMED = 6  # configurations in a sentence, at most
FEW_SEEDS = 3  # of two configurations, whose variance nothing else tells
FEW = 3  # configurations from which choosing by the test queries is worth a warning


def print_ablation(plan: Mapping[str, Any]) -> None:
    """Print the results of an ablation (the content of ablation.json): the table, then sentences."""
    if plan["results"]:
        print("\n".join(aligned(*main_table(plan))))
        more = {"test_suite": sets_table, "forms": forms_table}
        tables = [table for key, table in more.items() if plan["results"].get(key)]
        for table in tables:
            print("", *aligned(*table(plan["results"])), sep="\n")
        print(end="\n" * bool(tables))
    for line in [*sentences(plan), *_unfinished(plan)]:
        print(line)


def sentences(plan: Mapping[str, Any]) -> list[str]:
    """Which configuration is the best and which cannot be told apart from it, the first stage, the comparison with the
    baseline, what the tests count and what they could not see, runs that gained nothing, and warnings. Warnings come
    first if nothing is compared."""
    results = plan["results"]
    if not results:
        return ["no run has a result yet"]
    lines = [_about_best(plan), _about_first_stage(results), *_about_baseline(plan), *_about_tests(results)]
    lines += [_about_choice(results), _about_start(results)]
    lines += [*about_sets(results), *about_forms(results)]
    warnings = [f"warning: {warning}" for warning in results["warnings"]]
    return list(filter(None, [*lines, *warnings] if results["best"] else [*warnings, *lines]))


def _about_best(plan: Mapping[str, Any]) -> str:
    results, best = plan["results"], plan["results"]["best"]
    if best is None:
        return ""
    entry, names = results["configurations"][best], _with_result(results)
    low, high = entry["interval"]
    value = f"{results['metric']} {entry['mean']:.4f} [{low:.4f}, {high:.4f}]"
    if results["search"]:
        dev = results["search"]["dev"][best]
        return f"{best} is the best of {len(results['search']['dev'])} trials on dev, {dev:.4f}; on test {value}"
    if len(names) == 1:
        return f"{best}: {value}, an interval that counts {entry['counts']}"
    equal = [name for name in names if results["configurations"][name]["mean"] == entry["mean"]]
    if len(equal) == len(names):
        return f"all {len(names)} configurations have the same mean, {value}"
    worse = [name for name in names if name not in results["tied"]]
    tied = [name for name in names if name in results["tied"] and name != best]
    first = _listed(equal, results) if len(equal) > 1 else shown_names(results)[best]
    said = [f"{first} {'have' if len(equal) > 1 else 'has'} the highest mean of {len(names)} configurations, {value}"]
    if worse:
        said.append(f"better than {_named(worse, results, best, turned=True)}")
    if tied and results["pairs"]:
        said.append(f"not told apart from it: {_listed(tied, results)}")
    return "; ".join(said)


def _about_first_stage(results: Mapping[str, Any]) -> str:
    value = results["first_stage"]
    return "" if value is None or not results["best"] else f"the first stage has {value:.4f} on the same queries"


def _about_start(results: Mapping[str, Any]) -> str:
    """The runs whose model is the one that they started from."""
    runs = [(name, seed) for name in _with_result(results) for seed in results["configurations"][name]["seeds"]]
    kept = [f"{short_names(results)[name]}, seed {seed['seed']}" for name, seed in runs if seed.get("best_step") == 0]
    if not kept:
        return ""
    number = f"{len(kept)} of {len(runs)} runs {'have' if len(kept) > 1 else 'has'} the model that they started from"
    return f"{number}, since no checkpoint beat it on dev: {_and_more(kept[:NAMED], len(kept), '; ')}"


def _about_baseline(plan: Mapping[str, Any]) -> Iterator[str]:
    results, baseline = plan["results"], plan["baseline"]
    if results["search"] or baseline == results["best"] or baseline not in _with_result(results):
        return
    tests = {name: test_between(results, baseline, name) for name in _with_result(results) if name != baseline}
    found = {name: test for name, test in tests.items() if test and test["corrected"] < LEVEL}
    better = [name for name, test in found.items() if test["difference"] > 0]
    worse = [name for name in found if name not in better]
    same = [name for name, test in tests.items() if test and name not in found]
    parts = [f"better: {_named(better, results, baseline)}"] * bool(better)
    parts += [f"worse: {_named(worse, results, baseline)}"] * bool(worse)
    parts += [f"not told apart from it: {_listed(same, results)}"] * bool(same)
    if parts:
        yield f"beside the baseline, {shown_names(results)[baseline]}: {'; '.join(parts)}"


def _about_tests(results: Mapping[str, Any]) -> Iterator[str]:
    pairs = results["pairs"]
    if not pairs:
        return
    counts = {pair["counts"] for pair in pairs}
    several = len(pairs) > 1
    subject = f"p-values, corrected for {len(pairs)} comparisons (Holm)," if several else "p-value and interval"
    alone = "; intervals are those of single pairs" * several
    if counts == {BOTH}:
        yield f"{subject} count queries and seeds as samples{alone}"
    elif counts == {QUERIES}:
        yield (
            f"{subject} count queries alone{alone}: with one seed, a difference may be that of the seed (seeds=[1,2,3])"
        )
    elif counts == {SEEDS}:
        yield f"{subject} count seeds alone{alone}: they say nothing of other queries"
    else:
        yield f"{subject} do not all count queries and seeds: pairs without a common seed count queries alone{alone}"
    if not several and pairs[0]["counts"] == BOTH and pairs[0]["seeds"] <= FEW_SEEDS:
        few = f"two configurations and {pairs[0]['seeds']} seed{'s' * (pairs[0]['seeds'] > 1)}"
        yield f"with {few} the p-value may be half of what it should be: train 5"
    yield from _about_left_out(results)
    if results["least"]:
        seeds = [len(entry["seeds"]) for entry in results["configurations"].values() if entry["seeds"]]
        number = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        queries = f" and {results['queries']:,} queries" * bool(results["queries"])
        yield (
            f"with {number} seed{'s' * (max(seeds) > 1)}{queries}, most differences below {results['least']:.4f} are "
            "not found: no difference found does not mean that there is none"
        )


def _about_left_out(results: Mapping[str, Any]) -> Iterator[str]:
    names = sorted(results["left_out"], key=in_order(results).index)
    if names:
        spreads = [results["configurations"][name]["spread"] for name in names]
        shown = [
            f"{short_names(results)[name]} (spread {spread:.4f})" if spread is not None else short_names(results)[name]
            for name, spread in zip(names[:NAMED], spreads, strict=False)
        ]
        yield (
            f"seeds vary far more than elsewhere in {_and_more(shown, len(names))}: they are not counted in the tests "
            "of the other configurations"
        )


def _about_choice(results: Mapping[str, Any]) -> str:
    names = _with_result(results)
    means = {results["configurations"][name]["mean"] for name in names}
    if len(names) < FEW or results["best"] is None or len(means) == 1:
        return ""
    if search := results["search"]:
        return f"the best value on dev is the highest of {len(search['dev'])} and so too high; the one on test is not"
    dev = {name: results["configurations"][name]["best_dev"] for name in names}
    known = {name: value for name, value in dev.items() if value is not None}
    by_dev = ""
    if known:
        first = best_of(known)
        by_dev = (
            "; it is the best on dev too"
            if first == results["best"]
            else f", or choose by dev: {short_names(results)[first]}"
        )
    return (
        f"the test queries were looked at {len(names)} times, and the highest of {len(names)} means is too high: "
        f"confirm it on other queries{by_dev}"
    )


def _unfinished(plan: Mapping[str, Any]) -> list[str]:
    """The jobs without a result, those of a configuration that ended alike in one line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for job in plan["jobs"]:
        if job["status"] != "finished":
            alike = (job["configuration"], job["status"], job["error"] or "")
            groups.setdefault(alike, []).append(str(job["seed"]))
    lines = [
        f"{name}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {status}{f', {why}' if why else ''}"
        for (name, status, why), seeds in groups.items()
    ]
    more = len(lines) - NAMED
    return lines[:NAMED] + [f"and {more} more configurations without a result, in ablation.json"] * (more > 0)


def _with_result(results: Mapping[str, Any]) -> list[str]:
    return [name for name in in_order(results) if results["configurations"][name]["mean"] is not None]


def _named(names: Sequence[str], results: Mapping[str, Any], other: str, *, turned: bool = False) -> str:
    """Names with their tests against `other`: `other` minus each if `turned`."""
    parts, shown = [], short_names(results)
    for name in names[:NAMED]:
        test = test_between(results, name, other) if turned else test_between(results, other, name)
        parts.append(f"{shown[name]} ({in_words(test)})" if test else shown[name])
    return _and_more(parts, len(names))


def _listed(names: Sequence[str], results: Mapping[str, Any]) -> str:
    shown = short_names(results)
    return _and_more([shown[name] for name in names[:NAMED]], len(names))


def _and_more(parts: list[str], number: int, between: str = ", ") -> str:
    return between.join(parts) + (f" and {number - NAMED} more" if number > NAMED else "")
