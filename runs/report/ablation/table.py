"""The results of an ablation as tables of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from evaluation.ablation import BOTH, LEVEL
from evaluation.significance import PairedTest
from runs.report.costs import bytes_in_words

Results = Mapping[str, Any]  # "results" of ablation.json
Cells = list[list[str]]
NONE = "-"
LONG = 40  # characters of a name that a sentence does not repeat
COSTS = ("train s", "tokens/s", "memory", "stopped early")


def in_order(results: Results) -> list[str]:
    """The configurations as they are shown: the best first, those without a result last."""
    entries = results["configurations"]
    if search := results["search"]:
        scores: Mapping[str, float] = search["dev"]
    else:
        scores = {name: entry["mean"] for name, entry in entries.items() if entry["mean"] is not None}
    return sorted(entries, key=lambda name: -scores.get(name, float("-inf")))


def rows_of(results: Results) -> dict[str, str]:
    """The number by which each configuration is found in the table and in pictures: its row, or that of its trial."""
    if search := results["search"]:
        return {name: str(search["trials"][name]["number"]) for name in in_order(results)}
    return {name: str(place) for place, name in enumerate(in_order(results), 1)}


def shown_names(results: Results) -> dict[str, str]:
    """The names as tables and pictures show them. If any is long, what all of them share is left out, and keys are cut
    to their last part: "trainer.learning_rate=1e-05, seed=1" -> "learning_rate=1e-05"."""
    names = in_order(results)
    parts = {name: name.split(", ") for name in names}
    shared = set.intersection(*map(set, parts.values()))
    short = {name: ", ".join(_last_key(part) for part in own if part not in shared) for name, own in parts.items()}
    is_clear = all(short.values()) and len(set(short.values())) == len(names)
    return short if is_clear and max(map(len, names)) > LONG else {name: name for name in names}


def _last_key(setting: str) -> str:
    key, sign, value = setting.partition("=")
    return f"{key.rpartition('.')[2]}{sign}{value}"


def short_names(results: Results) -> dict[str, str]:
    """The names as sentences use them: one that is long or has several parts is named by its row."""
    rows, shown = rows_of(results), shown_names(results)
    if results["search"]:
        return {name: f"trial {row}" for name, row in rows.items()}
    plain = {name: len(own) <= LONG and ", " not in own for name, own in shown.items()}
    return {name: shown[name] if plain[name] else f"row {row}" for name, row in rows.items()}


def main_table(plan: Mapping[str, Any]) -> tuple[list[str], Cells]:
    """Every configuration with its mean, interval, spread and seeds, its difference to the baseline, whether it is tied
    with the best, and its cost. In a search, the settings of a trial and its value on dev come first."""
    results = plan["results"]
    if results["search"]:
        return _trials(results)
    baseline = plan["baseline"]
    header = [
        "configuration",
        results["metric"],
        "95% interval",
        "spread",
        "seeds",
        "vs baseline",
        "p",
        "vs best",
        "before",
        "dev",
    ]
    cells, shown = [], shown_names(results)
    for name, row in rows_of(results).items():
        entry = results["configurations"][name]
        test = test_between(results, baseline, name)
        cells.append(
            [
                f"{row} {shown[name]}",
                *_measured(entry),
                _seeds(entry),
                "baseline" if name == baseline else f"{test['difference']:+.4f}" if test else NONE,
                p_of(test["corrected"]) if test else NONE,
                verdict(results, name),
                _number(entry["before"]),
                _number(entry["best_dev"]),
                *_costs(entry),
            ]
        )
    alone = ("vs baseline", "vs best") if len(cells) == 1 else ()
    return without_empty([*header, *COSTS], cells, alone)


def _trials(results: Results) -> tuple[list[str], Cells]:
    search, settings = results["search"], results["search"]["settings"]
    keys = [_last_key(key) for key in settings]
    header = [
        "trial",
        *(keys if len(set(keys)) == len(keys) else settings),
        "dev",
        results["metric"],
        "95% interval",
        "spread",
        "seeds",
        "vs best",
    ]
    cells = []
    for name in in_order(results):
        entry, trial = results["configurations"][name], search["trials"][name]
        shown = [value_in_words(trial["values"].get(key)) for key in settings]
        dev = _number(search["dev"].get(name))
        row = [f"{trial['number']}", *shown, dev, *_measured(entry), _seeds(entry), verdict(results, name)]
        cells.append([*row, *_costs(entry)])
    return without_empty([*header, *COSTS], cells)


def value_in_words(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def _measured(entry: Mapping[str, Any]) -> list[str]:
    if entry["mean"] is None:
        return [NONE] * 3
    low, high = entry["interval"]
    return [f"{entry['mean']:.4f}", f"{low:.3f} to {high:.3f}", _number(entry["spread"])]


def _seeds(entry: Mapping[str, Any]) -> str:
    """The number of seeds that are counted; "2 of 3" if some are not finished."""
    done, open_ones = len(entry["seeds"]), len(entry["unfinished"])
    return f"{done} of {done + open_ones}" if open_ones else f"{done}"


def _costs(entry: Mapping[str, Any]) -> list[str]:
    seconds, tokens, memory = entry["seconds"], entry["tokens_per_s"], entry["peak_memory_bytes"]
    return [
        NONE if seconds is None else f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}",
        NONE if tokens is None else f"{tokens:,.0f}",
        NONE if memory is None else bytes_in_words(memory),
        _stopped_early(entry),
    ]


def _stopped_early(entry: Mapping[str, Any]) -> str:
    """The steps at which seeds have stopped early: "step 40", "2 of 3, step 40-60"."""
    steps = [seed["stopped_at"] for seed in entry["seeds"] if seed["stopped_at"] is not None]
    if not steps:
        return NONE
    few = f"{len(steps)} of {len(entry['seeds'])}, " * (len(steps) < len(entry["seeds"]))
    return f"{few}step {min(steps):,}" + f"-{max(steps):,}" * (max(steps) > min(steps))


def verdict(results: Results, name: str) -> str:
    """How a configuration compares with the best one."""
    if results["configurations"][name]["mean"] is None:
        return "no result"
    if name == results["best"]:
        return "best"
    test = test_between(results, results["best"], name)
    if test is None:
        return NONE
    if test["corrected"] >= LEVEL:
        return "tied"
    return "worse" if test["difference"] < 0 else "better"


def without_empty(header: list[str], cells: Cells, dropped: Collection[str] = ()) -> tuple[list[str], Cells]:
    """The table without the columns that have no value in any row, and without those that are `dropped`."""
    filled = [place for place, _ in enumerate(header) if place == 0 or any(row[place] != NONE for row in cells)]
    kept = [place for place in filled if header[place] not in dropped]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in cells]


def pairs_table(results: Results) -> tuple[list[str], Cells]:
    """All pairs, the clearest first."""
    header = ["configuration", "compared with", "difference", "95% interval", "p", "corrected", "counts"]
    shown = shown_names(results)
    if results["search"]:
        shown = short_names(results)
    cells = [
        [
            shown[pair["second"]],
            shown[pair["first"]],
            f"{pair['difference']:+.4f}",
            f"{pair['low']:+.4f} to {pair['high']:+.4f}",
            p_of(pair["p_value"]),
            p_of(pair["corrected"]),
            f"{pair['seeds']} seeds, {pair['queries']:,} queries" if pair["counts"] == BOTH else pair["counts"],
        ]
        for pair in sorted(results["pairs"], key=lambda pair: (pair["p_value"], -abs(pair["difference"])))
    ]
    return header, cells


def unfinished_table(plan: Mapping[str, Any]) -> tuple[list[str], Cells]:
    """The jobs without a result."""
    cells = [
        [f"{job['configuration']}, seed {job['seed']}", job["status"], job["error"] or NONE]
        for job in plan["jobs"]
        if job["status"] != "finished"
    ]
    return ["run", "status", "why"], cells


def test_between(results: Results, first: str | None, second: str) -> dict[str, Any] | None:
    """The test of `second - first`; None if the two were not compared."""
    for pair in results["pairs"]:
        if (pair["first"], pair["second"]) == (first, second):
            return dict(pair)
        if (pair["second"], pair["first"]) == (first, second):
            return {**pair, "difference": -pair["difference"], "low": -pair["high"], "high": -pair["low"]}
    return None


def p_of(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def in_words(test: Mapping[str, Any]) -> str:
    """ "+0.0123 [+0.0011, +0.0235], p = 0.030", with the corrected p-value."""
    return str(PairedTest(test["difference"], test["low"], test["high"], test["corrected"]))
