"""The differences between runs besides their results: settings, environment, cost, and warnings about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runs.redaction import redact_tree
from runs.report.comparison.content import Table
from runs.report.comparison.rankings import data_of
from runs.report.comparison.selection import FINISHED, ShownRun
from runs.report.costs import bytes_in_words, duration
from runs.report.searched import about_searched
from runs.settings_diff import flatten

ABSENT = "not set"
NAMES_OF_THE_RUN = ("run_name", "output_dir", "resume")  # they differ in every run and change no result
SHOWN_ALWAYS = (
    "command",
    "time",
    "git.revision",
    "git.dirty",
    "code_hash",
    "versions.python",
    "versions.torch",
    "hardware.cpu",
)
SHORT_HASH = 12  # characters


def warnings_about(runs: Sequence[ShownRun]) -> list[str]:
    """What keeps runs from being compared: other data, other code, other test queries, other metrics, no end."""
    found = []
    if len(data := _groups(runs, lambda run: _data_in_words(run))) > 1:
        found.append(f"the data differ, so the results cannot be compared as they are: {_in_words(data)}")
    if len(code := _groups(runs, _code_in_words)) > 1:
        found.append(f"the code differs, so a difference may come from it: {_in_words(code)}")
    if changed := [run.number for run in runs if (run.stored.environment.get("git") or {}).get("dirty")]:
        numbers = ", ".join(map(str, changed))
        found.append(f"the code of {_runs(changed)} {numbers} is no commit: files differ from it (environment, git)")
    if len(queries := _groups([run for run in runs if run.queries], lambda run: _queries_in_words(run, runs))) > 1:
        found.append(f"the test queries differ, and only common ones are compared: {_in_words(queries)}")
    if len(metrics := _groups(runs, lambda run: run.metric)) > 1:
        found.append(f"the runs are judged by different metrics: {_in_words(metrics)}")
    found += about_searched((f"run {run.number}", run.summary) for run in runs if run.summary)
    return [*found, *_unfinished(runs)]


def _unfinished(runs: Sequence[ShownRun]) -> list[str]:
    """The runs that are not finished, with their last step: those without a known error together, by their status."""
    found: list[str] = []
    waiting: dict[str, list[str]] = {}
    for run in runs:
        step = "before its first step" if run.last_step is None else f"last step {run.last_step:,}"
        if run.error:
            found.append(f"{run.label}: {run.status}, {step}: {run.error}")
        elif run.status != FINISHED:
            waiting.setdefault(run.status, []).append(f"{run.label} ({step})")
    return [*found, *(f"{status}: {'; '.join(names)}" for status, names in waiting.items())]


def fact_tables(runs: Sequence[ShownRun]) -> list[Table]:
    """The cost, the settings and the environment."""
    configs = [_config(run) for run in runs]
    environments = [_environment(run) for run in runs]
    differing, changed = _differing(configs), _differing(environments)
    partly = [key for key in differing if len({row[key] for row in configs if key in row}) == 1]
    differing = [key for key in differing if key not in partly]
    shared = [key for key in _keys(configs) if key not in (*differing, *partly)]
    shown = [key for key in SHOWN_ALWAYS if any(key in row for row in environments)]
    shown += [key for key in changed if key not in shown]
    rest = [key for key in _keys(environments) if key not in shown]
    several = len(runs) > 1
    tables = [
        cost_table(runs),
        _columns("Settings that differ", runs, configs, differing) if several else None,
        _columns("Settings that only some runs have", runs, configs, partly, is_open=False) if several else None,
        _shared("Settings that all runs share" if several else "Settings", configs, shared),
        _columns("Environment" + ", and what differs in it" * several, runs, environments, shown),
        _shared("Environment that all runs share" if several else "All of the environment", environments, rest),
    ]
    return [table for table in tables if table is not None and (table.rows or table.notes)]


def cost_table(runs: Sequence[ShownRun]) -> Table:
    """What each run has cost, and whether it is finished."""
    header = ("run", "status", "last step", "time", "rows/s", "tokens/s", "peak memory", "processes", "engine")
    return Table("Cost", header, [_cost_row(run) for run in runs])


def _cost_row(run: ShownRun) -> list[str]:
    summary = run.summary
    lines = [line for line in run.lines if line["split"] == "train"]
    steps = summary.get("steps", run.last_step)
    rates = [_rate(summary, lines, name) for name in ("rows_per_s", "tokens_per_s")]
    memory = summary.get("peak_memory_bytes") or (summary.get("cost") or {}).get("peak_memory_bytes")
    ranks = summary.get("world_size") or run.stored.environment.get("world_size")
    return [
        run.label,
        run.status,
        "" if steps is None else f"{steps:,}",
        duration(summary["seconds"]) if "seconds" in summary else "",
        *("" if rate is None else f"{rate:,.1f}" for rate in rates),
        bytes_in_words(memory) if memory else "",
        str(ranks or ""),
        str(summary.get("engine") or ""),
    ]


def _rate(summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Rows or tokens per second: those of the summary, else the mean over the lines so far."""
    values = [line[name] for line in lines if line.get(name) is not None]
    rate: float | None = summary.get(name)
    return rate if rate is not None or not values else sum(values) / len(values)


def _config(run: ShownRun) -> dict[str, str]:
    """The settings of a run by dotted key, without secrets and without its name."""
    tree = redact_tree(run.stored.config)
    leaves = {key: _show(value) for key, value in flatten(tree).items() if key} if tree else {}
    return {key: value for key, value in leaves.items() if key not in NAMES_OF_THE_RUN}


def _environment(run: ShownRun) -> dict[str, str]:
    tree = redact_tree(run.stored.environment)
    return {key: _show(value) for key, value in flatten(tree).items() if key} if tree else {}


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def _keys(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _differing(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys that differ between the runs that have any (an evaluation has no settings)."""
    known = [row for row in rows if row]
    return [key for key in _keys(known) if len({row.get(key, ABSENT) for row in known}) > 1]


def _columns(
    title: str,
    runs: Sequence[ShownRun],
    rows: Sequence[Mapping[str, str]],
    keys: Sequence[str],
    *,
    is_open: bool = True,
) -> Table:
    """A row for each key, a column for each run that has any."""
    own = [(run, row) for run, row in zip(runs, rows, strict=True) if row]
    cells = [[key, *(row.get(key, ABSENT) for _, row in own)] for key in keys]
    notes = [f"{run.label}: not recorded" for run, row in zip(runs, rows, strict=True) if not row and is_open]
    return Table(title, ("key", *(run.label for run, _ in own)), cells, notes, is_open=is_open)


def _shared(title: str, rows: Sequence[Mapping[str, str]], keys: Sequence[str]) -> Table:
    values = [[key, next(row[key] for row in rows if key in row)] for key in keys]
    return Table(title, ("key", "value"), values, is_open=False)


def _groups(runs: Sequence[ShownRun], key: Callable[[ShownRun], str]) -> dict[str, list[int]]:
    """The numbers of the runs by what `key` says of them; those of which it says nothing are left out."""
    groups: dict[str, list[int]] = {}
    for run in runs:
        if name := key(run):
            groups.setdefault(name, []).append(run.number)
    return groups


def _in_words(groups: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{name} ({_runs(of)} {', '.join(map(str, of))})" for name, of in groups.items())


def _runs(numbers: Sequence[int]) -> str:
    return "runs" if len(numbers) > 1 else "run"


def _data_in_words(run: ShownRun) -> str:
    """The name and the hash of the data. A share of the training queries is another one by seed: then the share, and
    the hash of the whole."""
    name, fingerprint = data_of(run)
    share, whole = run.stored.config.get("train_share") or 1.0, run.summary.get("whole_data_hash")
    if whole and share < 1:
        return f"{share:g} of the training queries of {name} {str(whole)[:SHORT_HASH]}"
    return f"{name} {fingerprint[:SHORT_HASH]}" if fingerprint else ""


def _code_in_words(run: ShownRun) -> str:
    """The hash of the code; of older runs, which have none, the commit."""
    environment = run.stored.environment
    if code := environment.get("code_hash"):
        return f"code {str(code)[:SHORT_HASH]}"
    git = environment.get("git") or {}
    changed = ", with changed files" * bool(git.get("dirty"))
    return f"commit {str(git['revision'])[:SHORT_HASH]}{changed}" if git else ""


def _queries_in_words(run: ShownRun, runs: Sequence[ShownRun]) -> str:
    """The number of test queries; sets of one size are told apart by the first run that has the same."""
    same = next(other for other in runs if other.queries.keys() == run.queries.keys())
    return f"{len(run.queries):,} queries" + f", those of run {same.number}" * (same.number != runs[0].number)
