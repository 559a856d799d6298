"""The content of a page of several runs as a W&B Report: tables as text, and the curves that W&B has of these runs."""

from __future__ import annotations

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

    `entity` and `project` are where the runs are; None: those of the first run's settings. Raises ValueError if the
    package is missing, or if none of the runs was logged to W&B.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        from wandb_workspaces import expr
    except ImportError:
        raise ValueError(PACKAGE) from None
    ids = {run.name: wandb_id(run) for run in runs}
    known = [run_id for run_id in ids.values() if run_id]
    if not known:
        raise ValueError(f"no run of {', '.join(ids)} has been logged to W&B: train with logger=wandb")
    absent = [name for name, run_id in ids.items() if not run_id]
    options = [own for run in runs if "WandbConfig" in str((own := run.config.get("logger") or {}).get("_target_"))]
    runset = wr.Runset(name=title, filters=[expr.Metric("ID").isin(known)])
    blocks: list[Any] = [wr.P(text=lead)] if lead else []
    blocks += [wr.TableOfContents()]
    blocks += _sections(wr, "Results", results)
    blocks += [wr.H2(text="Curves")]
    if absent:
        blocks.append(wr.P(text=f"Not in W&B, so without curves here: {', '.join(absent)}."))
    for split, panels in _panels(wr, runs).items():
        blocks += [wr.H3(text=split), wr.PanelGrid(runsets=[runset], panels=panels)]
    blocks += _sections(wr, "Settings, environment and cost", facts)
    first: Mapping[str, Any] = options[0] if options else {}
    return wr.Report(
        entity=entity or first.get("entity") or "",
        project=project or first.get("project") or PROJECT,
        title=title,
        blocks=blocks,
    )


def save(report: Any) -> str:
    """Send the report to W&B. Returns its address. Raises ValueError if nobody is logged in or W&B refuses it."""
    if not logged_in():
        raise ValueError("a W&B Report needs a login: `wandb login`, or WANDB_API_KEY")
    try:
        if not report.entity:
            import wandb

            report.entity = wandb.Api().default_entity
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
    draws, and bars of the final values on test."""
    logged = {(line["split"], name) for run in runs for line in run.metrics() for name in line}
    metrics = dict.fromkeys(_metric(run) for run in runs)
    dev = [(f"dev/{name}", f"dev {name}") for name in metrics if ("dev", name) in logged]
    train = [(f"train/{name}", title) for name, title in TITLES.items() if ("train", name) in logged]
    test = [name for name in metrics if ("test", name) in logged]
    panels = {
        "dev": [_line(wr, key, title) for key, title in dev],
        "test": [_bars(wr, f"test/{name}", f"test {name}") for name in test],
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
