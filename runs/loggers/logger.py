"""Loggers that need no library. Tracking never prompts, fails or delays a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runs.directory import RunDirectory
from trainers.record import Logger


class NoLogger:
    """Drops everything: for logger=none, and on every rank but 0."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class StageLogger:
    """Logs one stage of a run: its steps count from `first_step`, and its curves carry the number of the stage."""

    logger: Logger
    number: int
    first_step: int

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logger.log({**metrics, "stage": self.number}, self.first_step + step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """A stage does not end the run's record."""


@dataclass(frozen=True)
class NoneConfig:
    """metrics.jsonl alone."""

    def build(self, run: RunDirectory, settings: Mapping[str, Any]) -> Logger:
        return NoLogger()
