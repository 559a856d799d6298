"""The protocols of a run's record and of its logger. The package `runs` implements both; tests may use their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainers.state import TrainState

REFERENCE_FILE = "reference_scores.npz"  # in the record's folder: scores of the reference
REFRESH_FOLDER = "refresh"  # in the record's folder: the refreshed candidates in use

Checkpoint = tuple[Path, TrainState]  # a folder and its state


class RunRecord(Protocol):
    """The folder that a run leaves behind (`runs.directory.RunDirectory`). Every rank holds one; rank 0 writes."""

    path: Path
    checkpoint: Checkpoint | None  # from which training resumes; None: it starts

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add a line with `step`, `split` and values to metrics.jsonl."""

    def append_nonfinite(self, line: Mapping[str, Any]) -> None:
        """Add a line to nonfinite.jsonl."""

    def cut_metrics(self, state: TrainState) -> None:
        """Remove the lines of steps after a checkpoint's state, to which training goes back."""

    def flush_metrics(self) -> None:
        """Wait until metrics.jsonl is on disk, so that no checkpoint is newer than its lines."""

    def wandb_run_id(self) -> str | None:
        """The id of the W&B run, if there is one."""


class Logger(Protocol):
    """A destination of metrics besides metrics.jsonl."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log named values of one step. The names are "split/name"."""

    def alert(self, title: str, text: str) -> None:
        """Tell the user, where the tracker can, of something that should be looked at while the run goes on."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run, with the content of summary.json."""

    def stop(self, error: BaseException) -> None:
        """End the run because of `error`: it has failed, or a signal has stopped it."""
