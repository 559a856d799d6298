"""The W&B Report of several runs: built and serialised without a network, its runs, panels and tables."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb_workspaces.reports.v2 as wr

from runs.report import wandb_report as module
from runs.report.wandb_report import save, wandb_report
from runs.stored_run import StoredRun

TABLE = SimpleNamespace(
    title="Results: MAP on test", header=["run", "after"], rows=[["1 a|b", "0.5000 [0.4, 0.6]"]], notes=["over queries"]
)
FACTS = SimpleNamespace(title="Settings that differ", header=["setting", "1 a"], rows=[["seed", "3"]], notes=[])


def write_run(folder: Path, name: str, wandb_id: str | None) -> StoredRun:
    run = folder / name
    run.mkdir()
    config = "logger: {_target_: runs.loggers.wandb.WandbConfig, project: mine, entity: team}\neval: {metric: MAP}\n"
    (run / "config.yaml").write_text(config)
    lines = [
        {"step": 0, "split": "test", "name": "before", "MAP": 0.1},
        {"step": 10, "split": "train", "stage": "warm", "loss": 0.5, "kl": 0.1},
        {"step": 10, "split": "dev", "MAP": 0.4},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if wandb_id:
        (run / "wandb").mkdir()
        (run / "wandb" / "run_id").write_text(wandb_id + "\n")
    return StoredRun.read(run)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[StoredRun]:
    def refuse(*_: object) -> None:
        raise AssertionError("a report is built without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return [write_run(tmp_path, name, name * 8 if name != "c" else None) for name in "abc"]


def serialised(report: Any) -> dict[str, Any]:
    return json.loads(report._to_model().model_dump_json(by_alias=True, exclude_none=True))


def test_the_report_serialises_with_these_runs_alone(runs):
    report = wandb_report(runs, "Three runs", lead="in short", results=[TABLE], facts=[FACTS])
    model = serialised(report)
    assert (model["displayName"], report.project, report.entity) == ("Three runs", "mine", "team")
    text = json.dumps(model)
    grids = [block for block in report.blocks if type(block) is wr.PanelGrid]
    assert {grid.runsets[0].filters for grid in grids} == {grids[0].runsets[0].filters}
    assert grids[0].runsets[0].filters == "Metric(\"ID\") in ['aaaaaaaa', 'bbbbbbbb']"
    assert "aaaaaaaa" in text
    assert "Not in W&B, so without curves here: c." in text


def test_there_is_a_panel_for_each_value_of_each_split(runs):
    report = wandb_report(runs, "Three runs")
    panels = {
        before.text: [panel.metrics if type(panel) is wr.BarPlot else panel.y for panel in grid.panels]
        for before, grid in zip(report.blocks, report.blocks[1:], strict=False)
        if type(grid) is wr.PanelGrid
    }
    assert panels == {
        "dev": [["dev/MAP"]],
        "test": [[wr.SummaryMetric("test/MAP")], wr.SummaryMetric("test/MAP")],
        "train": [["train/loss"], ["train/kl"]],
    }
    lines = [panel for grid in report.blocks if type(grid) is wr.PanelGrid for panel in grid.panels]
    assert {panel.x for panel in lines if type(panel) is wr.LinePlot} == {"step"}


def test_tables_become_markdown(runs):
    report = wandb_report(runs, "Three runs", results=[TABLE], facts=[FACTS])
    texts = [block.text for block in report.blocks if type(block) is wr.MarkdownBlock]
    assert texts == [
        "| run | after |\n|---|---|\n| 1 a\\|b | 0.5000 [0.4, 0.6] |\n\nover queries",
        "| setting | 1 a |\n|---|---|\n| seed | 3 |",
    ]


def test_each_project_has_a_runset_and_a_null_is_that_of_the_environment(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "others")
    other = write_run(tmp_path, "d", "dddddddd")
    config = (other.path / "config.yaml").read_text().replace("project: mine, entity: team", "project: null")
    (other.path / "config.yaml").write_text(config)
    other = StoredRun.read(other.path)
    report = wandb_report([*runs, other], "Runs")
    grid = next(block for block in report.blocks if type(block) is wr.PanelGrid)
    assert [(each.entity, each.project, each.name) for each in grid.runsets] == [
        ("", "", "Runs: team/mine"),  # the report's own
        ("others", "theirs", "Runs: others/theirs"),
    ]
    assert [each.filters for each in grid.runsets] == [
        "Metric(\"ID\") in ['aaaaaaaa', 'bbbbbbbb']",
        "Metric(\"ID\") in ['dddddddd']",
    ]
    assert (report.entity, report.project) == ("team", "mine")
    alone = wandb_report([other], "Run")
    assert (alone.entity, alone.project) == ("others", "theirs")


def test_runs_that_w_and_b_does_not_know_are_refused(runs):
    with pytest.raises(ValueError, match="no run of c has been logged to W&B: train with logger=wandb"):
        wandb_report(runs[2:], "One run")


def test_a_stage_is_found_by_its_run(runs):
    stage = runs[0].path / "stages" / "1-warm"
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").touch()
    assert module.wandb_id(StoredRun.read(stage)) == "aaaaaaaa"


def test_saving_needs_a_login_and_tells_why_it_failed(runs, monkeypatch):
    report = wandb_report(runs, "Three runs")
    monkeypatch.setattr(module, "logged_in", lambda: False)
    with pytest.raises(ValueError, match="needs a login"):
        save(report)

    def fail() -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(module, "logged_in", lambda: True)
    with pytest.raises(ValueError, match=r"W&B has not taken the report \(ConnectionError: no network\)"):
        save(SimpleNamespace(save=fail, entity="team", blocks=[]))
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity="me"))
    own, other = (SimpleNamespace(project=project, entity="") for project in ("", "theirs"))
    grid = SimpleNamespace(runsets=[own, other])
    sent = SimpleNamespace(save=lambda: None, url="https://wandb.ai/r", entity="", blocks=[grid])
    assert (save(sent), sent.entity, own.entity, other.entity) == ("https://wandb.ai/r", "me", "", "me")
