"""The files of an offline run, read back by W&B: a run that is killed and resumed, one that fails, one that is
preempted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from trackers import of_type, records_of

from engines.distributed import preemption
from engines.distributed.preemption import Preempted
from runs.directory import RunDirectory
from runs.files import write_json
from runs.loggers.wandb import WandbConfig

CONFIG = WandbConfig(
    mode="offline", group="ablation", job_type="grpo", tags=["a", "b"], notes="why", artifacts="checkpoints"
)
KILLED = """
import json, os, signal, sys, time
from dataclasses import replace
from pathlib import Path
from runs.directory import RunDirectory
from runs.loggers.wandb import FLUSH_S, WandbConfig
settings, options = map(json.loads, sys.argv[1:])
run = RunDirectory.open(settings)
run.describe_data("docs", "f1n9e4")
logger = WandbConfig(**options).build(run, settings)
for step in (10, 20, 30):
    logger.log({"train/loss": 1 / step, "train/seconds": step}, step)
logger.log({"dev/MAP": 0.25}, 20)
time.sleep(FLUSH_S + 0.5)
logger.log({"train/loss": 1 / 35}, 35)  # not yet written when it is killed
os.kill(os.getpid(), signal.SIGKILL)
"""
SUMMARY = {
    "metric": "MAP",
    "steps": 40,
    "best_dev": 0.5,
    "metrics": {"before": {"MAP": 0.25}, "after": {"MAP": 0.75}},
    "tests": {"after_vs_before": {"difference": 0.5, "low": 0.25, "high": 0.75, "p_value": 0.5}},
}


class Story(NamedTuple):
    """A run that was killed and resumed."""

    run: RunDirectory
    error_lines: list[str]  # of the first process
    killed: list[dict[str, Any]]  # records
    resumed: list[dict[str, Any]]
    folder: Path  # of the second


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "MODE", "DIR", "RUN_ID", "RESUME"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("wandb_data")))
        patch.setenv("WANDB_CACHE_DIR", str(tmp_path_factory.mktemp("wandb_cache")))
        yield tmp_path_factory.mktemp("outputs")
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # its process, which else outlives this module's tests


def settings_of(outputs: Path, name: str) -> dict[str, Any]:
    model = {"name_or_path": str(outputs / "warm" / "model")}
    return {"run_name": name, "output_dir": str(outputs), "resume": "auto", "model": model}


def write_run(run: Path) -> None:
    """What a finished run has left: results, two stages' models, its own, and checkpoints."""
    write_json(run / "summary.json", SUMMARY)
    documents = [{"id": "d1", "grade": 1, "text": "a document"}]
    line = {"query_id": "q1", "text": "a query", "values": {"before": {"MAP": 0.25}, "after": {"MAP": 0.75}}}
    (run / "runs").mkdir()
    queries = json.dumps({**line, "documents": {"before": documents, "after": documents}})
    (run / "runs" / "queries.jsonl").write_text(queries + "\n")
    for number, folder in enumerate(("stages/1-warm/model", "stages/2-grpo/model", "model")):
        (run / folder).mkdir(parents=True)
        (run / folder / "model.safetensors").write_bytes(bytes([number]))
    own = {"name": "chats", "fingerprint": "0wn"}
    for stage, data in (("1-warm", own), ("2-grpo", {"name": "docs", "fingerprint": "f1n9e4"})):
        write_json(run / "stages" / stage / "environment.json", {"data": data})
    for step in (10, 40):
        (run / "checkpoints" / f"step-{step:06}").mkdir()
        (run / "checkpoints" / f"step-{step:06}" / "engine.json").write_text(f"{step}")
    (run / "checkpoints" / "best").write_text("step-000010\n")
    (run / "checkpoints" / "latest").write_text("step-000040\n")


@pytest.fixture(scope="module")
def story(outputs: Path) -> Story:
    (outputs / "warm" / "model").mkdir(parents=True)
    (outputs / "warm" / "model" / "model.safetensors").write_bytes(b"warm")
    record = {"model": {"name": "model-warm", "type": "model", "project": "plackett"}}
    (outputs / "warm" / "wandb").mkdir()
    write_json(outputs / "warm" / "wandb" / "artifacts.json", record)
    settings = settings_of(outputs, "a")
    options = {**CONFIG.__dict__}
    command = [sys.executable, "-c", KILLED, json.dumps(settings), json.dumps(options)]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # this process may have one
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=own)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (first,) = outputs.glob("a/wandb/offline-run-*")
    run = RunDirectory.open(settings)
    logger = CONFIG.build(run, settings)
    for step in (20, 30, 35, 40):
        logger.log({"train/loss": 1 / step}, step)
    logger.log({"dev/MAP": 0.25}, 20)
    logger.log({"dev/MAP": 0.5}, 40)
    write_run(run.path)
    logger.finish(SUMMARY)
    (second,) = {*outputs.glob("a/wandb/offline-run-*")} - {first}
    lines = done.stderr.splitlines()
    return Story(run, lines, records_of(first), records_of(second), second)


def test_one_line_says_how_to_put_it_online(story):
    assert len([line for line in story.error_lines if "W&B" in line]) == 1, story.error_lines
    assert f"`wandb sync {story.run.path}/wandb/offline-run-*`" in story.error_lines[-1]


def test_both_parts_are_one_run_which_sync_appends(story):
    (first,), (second,) = (of_type(records, "run") for records in (story.killed, story.resumed))
    for part in (first, second):
        assert part["run_id"] == story.run.wandb_run_id()
        assert part["resume"] is True
        known = [part[name] for name in ("project", "run_group", "job_type", "display_name", "notes", "tags")]
        assert known == ["plackett", "ablation", "grpo", "a", "why", ["a", "b"]]
        assert part["config"]["update"]["content_hashes"]["data"]["fingerprint"] == "f1n9e4"
    assert not of_type(story.killed, "exit")
    assert of_type(story.resumed, "exit")[0].get("exit_code", 0) == 0


def test_every_value_is_there_once(story):
    rows = [item["item"] for part in (story.killed, story.resumed) for item in of_type(part, "history")]
    values = [(name, row["step"], row[name]) for row in rows for name in row if name.startswith(("train/", "dev/"))]
    assert sorted(values) == sorted(
        [("train/loss", step, 1 / step) for step in (10, 20, 30, 35, 40)]
        + [("train/seconds", step, step) for step in (10, 20, 30)]
        + [("dev/MAP", 20, 0.25), ("dev/MAP", 40, 0.5)]
    )
    metrics = {record.get("glob_name") or record["name"]: record for record in of_type(story.killed, "metric")}
    assert {name for name, record in metrics.items() if record.get("step_metric") == "step"} >= {
        "train/*",
        "dev/*",
        "test/*",
    }
    assert metrics["dev/*"]["summary"]["max"] is True


def test_the_summary_and_the_tables_are_there(story):
    (final,) = [item["item"] for item in of_type(story.resumed, "history") if "best_dev" in item["item"]]
    tables = [name.removesuffix("._type") for name, value in final.items() if value == "table-file"]
    assert sorted(tables) == ["queries/best", "queries/values", "results/metrics", "results/tests"]
    best = json.loads((story.folder / "files" / final["queries/best.path"]).read_text())
    assert dict(zip(best["columns"], best["data"][0], strict=True))["after text"] == "a document"
    summary: dict[str, Any] = {}
    for record in of_type(story.resumed, "summary"):
        summary |= record["update"]
    assert (summary["best_dev"], summary["steps"]) == (0.5, 40)


def test_artifacts_lead_from_what_a_run_starts_from_to_what_it_leaves(story):
    records = of_type(story.resumed, "artifact")
    inputs = [record["name"] for record in records if record.get("use_after_commit")]
    outputs = [(record["name"], sorted(record["aliases"])) for record in records if not record.get("use_after_commit")]
    assert inputs == ["data-docs", "model-warm", "data-chats", "model-ablation-a-1-warm"]
    assert [output for output in outputs if output[0].startswith(("model", "checkpoint"))] == [
        ("model-ablation-a-1-warm", ["latest"]),
        ("model-ablation-a-2-grpo", ["latest"]),
        ("model-ablation-a", ["latest"]),
        ("checkpoint-ablation-a", ["best", "latest"]),
        ("checkpoint-ablation-a", ["latest"]),
    ]
    made, used = (record for record in records if record["name"] == "model-ablation-a-1-warm")
    assert used["digest"] == made["digest"]  # so W&B takes them for one version
    data = [record for record in of_type(story.killed, "artifact") + records if record["name"] == "data-docs"]
    assert [record["digest"] for record in data] == [data[0]["digest"]] * 2
    recorded = json.loads((story.run.path / "wandb" / "artifacts.json").read_text())
    assert recorded["model"] == {"name": "model-ablation-a", "type": "model", "project": "plackett"}


@pytest.mark.parametrize(("kind", "exit_code"), [("failed", 1), ("preempted", 75)])
def test_a_run_that_does_not_end_well_says_so(kind, exit_code, outputs, monkeypatch):
    settings = settings_of(outputs, kind)
    run = RunDirectory.open(settings)
    logger = replace(CONFIG, artifacts="none").build(run, settings)
    logger.log({"train/loss": 1.0}, 1)
    monkeypatch.setattr(preemption, "_state", preemption.State(received=signal.SIGTERM.name))
    error = ValueError("a mistake") if kind == "failed" else Preempted("at step 1")
    logger.stop(error, timeout_s=60.0)  # other tests may keep the machine busy
    folder = next(run.path.glob("wandb/offline-run-*"))
    for _ in range(100):  # W&B's own process writes the last record
        records = records_of(folder)
        if of_type(records, "exit"):
            break
        time.sleep(0.1)
    assert [record["exit_code"] for record in of_type(records, "exit")] == [exit_code]
    alerts = [(record["title"], record["text"], record["level"]) for record in of_type(records, "alert")]
    assert alerts == ([("failed: failed", "ValueError: a mistake", "ERROR")] if kind == "failed" else [])
    assert len(of_type(records, "preempting")) == (kind == "preempted")
