"""What the loop needs of a run's record and of its logger: `runs` has both, tests may bring their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainers.state import TrainState

REFERENCE_FILE = "reference_scores.npz"  # in the record's folder: scores of the model that training started from

Checkpoint = tuple[Path, TrainState]  # a folder and its state


class RunRecord(Protocol):
    """The folder that a run leaves behind (`runs.directory.RunDirectory`). Every rank holds one; rank 0 writes."""

    path: Path
    checkpoint: Checkpoint | None  # where training resumes; None: it starts

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add a line with `step`, `split` and values to metrics.jsonl."""

    def append_nonfinite(self, line: Mapping[str, Any]) -> None:
        """Add a line to nonfinite.jsonl."""

    def cut_metrics(self, state: TrainState) -> None:
        """Drop the lines past a checkpoint's state, to which training goes back."""

    def flush_metrics(self) -> None:
        """Wait until metrics.jsonl is on disk: no checkpoint is ahead of it."""

    def wandb_run_id(self) -> str | None:
        """The id of the W&B run, if there is one."""


class Logger(Protocol):
    """Where metrics go besides metrics.jsonl."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take named values of one step; "split/name" groups them."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End a whole run, with the content of summary.json."""
