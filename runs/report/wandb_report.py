"""The content of a page of several runs as a W&B Report: tables as text, and the curves that W&B has of these runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from runs.loggers.wandb import PROJECT, logged_in
from runs.report.comparison.content import Table
from runs.report.comparison.curves import TITLES
from runs.stored_run import StoredRun

WIDTH, HEIGHT = 12, 8  # of a panel; a report is 24 wide
PACKAGE = "a W&B Report needs a package: pip install -c constraints.txt -e '.[reports]'"


def wandb_report(
    runs: Sequence[StoredRun],
    title: str,
    *,
    entity: str | None = None,
    project: str | None = None,
    lead: str = "",
    results: Sequence[Table] = (),
    facts: Sequence[Table] = (),
) -> Any:
    """Build a `wandb_workspaces.reports.v2.Report`: `lead`, the tables of `results`, the curves of each split with the
    runs over each other, the tables of `facts`. Nothing is sent.

    `entity` and `project` are where the runs are; None: those of each run's settings, else of WANDB_ENTITY and
    WANDB_PROJECT. The report is made in those of the first run; each other project has a runset of its own. Raises
    ValueError if the package is missing, or if none of the runs was logged to W&B.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError:
        raise ValueError(PACKAGE) from None
    places = _places(runs, entity, project)
    if not places:
        names = ", ".join(run.name for run in runs)
        raise ValueError(f"no run of {names} has been logged to W&B: train with logger=wandb")
    absent = [run.name for run in runs if not wandb_id(run)]
    runsets = _runsets(title, places)
    blocks: list[Any] = [wr.P(text=lead)] if lead else []
    blocks += [wr.TableOfContents()]
    blocks += _sections(wr, "Results", results)
    blocks += [wr.H2(text="Curves")]
    if absent:
        blocks.append(wr.P(text=f"Not in W&B, so without curves here: {', '.join(absent)}."))
    for split, panels in _panels(wr, runs).items():
        blocks += [wr.H3(text=split), wr.PanelGrid(runsets=runsets, panels=panels)]
    blocks += _sections(wr, "Settings, environment and cost", facts)
    own_entity, own_project = next(iter(places))
    return wr.Report(entity=own_entity, project=own_project, title=title, blocks=blocks)


def _places(runs: Sequence[StoredRun], entity: str | None, project: str | None) -> dict[tuple[str, str], list[str]]:
    """The ids of the runs that W&B has, by entity ("": that of the login) and project."""
    places: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if run_id := wandb_id(run):
            logger = run.config.get("logger") or {}
            own: Mapping[str, Any] = logger if "WandbConfig" in str(logger.get("_target_")) else {}
            place = (
                entity or own.get("entity") or os.environ.get("WANDB_ENTITY") or "",
                project or own.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT,
            )
            places.setdefault(place, []).append(run_id)
    return places


def _runsets(title: str, places: Mapping[tuple[str, str], Sequence[str]]) -> list[Any]:
    """A runset for each project, since W&B's hold runs of one alone. The first is that of the report: it is not
    named again, as W&B would be asked for it."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    return [
        wr.Runset(
            entity=entity if number else "",
            project=project if number else "",
            name=title if len(places) == 1 else f"{title}: {'/'.join(filter(None, (entity, project)))}",
            filters=[expr.Metric("ID").isin(list(dict.fromkeys(ids)))],
        )
        for number, ((entity, project), ids) in enumerate(places.items())
    ]


def save(report: Any) -> str:
    """Send the report to W&B. Returns its address. Raises ValueError if nobody is logged in or W&B refuses it."""
    if not logged_in():
        raise ValueError("a W&B Report needs a login: `wandb login`, or WANDB_API_KEY")
    try:
        runsets = [runset for block in report.blocks for runset in getattr(block, "runsets", ()) if runset.project]
        if unnamed := [part for part in (report, *runsets) if not part.entity]:
            import wandb

            own = wandb.Api().default_entity
            for part in unnamed:
                part.entity = own
        report.save()
    except Exception as error:  # of the network or the server; any type
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"W&B has not taken the report ({reason}): are entity and project right?") from error
    return str(report.url)


def wandb_id(run: StoredRun) -> str | None:
    """The id of the W&B run, for a stage that of its run; None if there is none."""
    folders = (run.path, run.path.parent.parent) if run.path.parent.name == "stages" else (run.path,)
    for file in (folder / "wandb" / "run_id" for folder in folders):
        if file.is_file():
            return file.read_text().strip()
    return None


def _panels(wr: Any, runs: Sequence[StoredRun]) -> dict[str, list[Any]]:
    """The panels of each split: a picture for each metric on dev and for each value of training that report.html
    draws, on test bars of the final values, and of several runs these against the seconds of training."""
    logged = {(line["split"], name) for run in runs for line in run.metrics() for name in line}
    metrics = dict.fromkeys(_metric(run) for run in runs)
    dev = [(f"dev/{name}", f"dev {name}") for name in metrics if ("dev", name) in logged]
    train = [(f"train/{name}", title) for name, title in TITLES.items() if ("train", name) in logged]
    test = [name for name in metrics if ("test", name) in logged]
    costs = [_scatter(wr, f"test/{name}", f"test {name} against cost") for name in test if len(runs) > 1]
    panels = {
        "dev": [_line(wr, key, title) for key, title in dev],
        "test": [_bars(wr, f"test/{name}", f"test {name}") for name in test] + costs,
        "train": [_line(wr, key, title) for key, title in train],
    }
    return {split: own for split, own in panels.items() if own}


def _metric(run: StoredRun) -> str:
    options = run.config.get("eval") or {}
    return str((run.summary or {}).get("metric") or options.get("metric") or "")


def _line(wr: Any, key: str, title: str) -> Any:
    return wr.LinePlot(title=title, x="step", y=[key], title_x="step", layout=_layout(wr))


def _bars(wr: Any, key: str, title: str) -> Any:
    return wr.BarPlot(title=title, metrics=[wr.SummaryMetric(key)], layout=_layout(wr))


def _scatter(wr: Any, key: str, title: str) -> Any:
    x, y = wr.SummaryMetric("seconds"), wr.SummaryMetric(key)
    return wr.ScatterPlot(title=title, x=x, y=y, layout=_layout(wr))


def _layout(wr: Any) -> Any:
    return wr.Layout(w=WIDTH, h=HEIGHT)


def _sections(wr: Any, title: str, tables: Sequence[Table]) -> list[Any]:
    """A heading, and each table with its heading and its notes."""
    blocks = [wr.H2(text=title)] if tables else []
    for table in tables:
        blocks += [wr.H3(text=table.title), wr.MarkdownBlock(text=markdown(table))]
    return blocks


def markdown(table: Table) -> str:
    """The table and its notes in Markdown.

    >>> from types import SimpleNamespace as Table
    >>> print(markdown(Table(header=["run", "loss"], rows=[["a|b", "0.5"]], notes=["lower is better"])))
    | run | loss |
    |---|---|
    | a\\\\|b | 0.5 |
    <BLANKLINE>
    lower is better
    """
    lines = [_row(table.header), f"|{'---|' * len(table.header)}", *map(_row, table.rows)] if table.rows else []
    return "\n".join([*lines, *(line for note in table.notes for line in ("", note))])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
