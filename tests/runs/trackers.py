"""A stand-in for a W&B run, a logger that writes to one, and W&B's own reader of what a run has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs.loggers.wandb_history import read_records
from runs.loggers.wandb_logger import RunFiles, WandbLogger

TYPES = ("run", "metric", "history", "summary", "artifact", "alert", "preempting", "exit")


class Tracker:
    """Stands in for a W&B run: keeps what it is told."""

    def __init__(self, fails: bool = False):
        self.fails, self.id = fails, "ab12cd34"
        self.lines: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.defined: dict[str, dict[str, Any]] = {}
        self.alerts: list[tuple[str, str, str]] = []
        self.preempting = False
        self.exit_code: int | None = None
        self.finished = False

    def define_metric(self, name: str, **options: Any) -> None:
        self.defined[name] = options

    def log(self, values: dict[str, Any]) -> None:
        if self.fails:
            raise OSError("disk full")
        self.lines.append(values)

    def alert(self, title: str, text: str, level: str) -> None:
        self.alerts.append((title, text, level))

    def mark_preempting(self) -> None:
        self.preempting = True

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code, self.finished = exit_code, True


def make_logger(start: Callable[[], Any], folder: Path, **options: Any) -> WandbLogger:
    """A logger of the run in `folder`, whose W&B run is what `start` returns."""
    (folder / "metrics.jsonl").touch()  # a run folder
    return WandbLogger(start, RunFiles(folder, {}), **options)


def records_of(folder: Path) -> list[dict[str, Any]]:
    """All records of an offline run's folder, by W&B's own reader."""
    (file,) = folder.glob("*.wandb")
    return list(read_records(file, TYPES))


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]
