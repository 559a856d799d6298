"""Where metrics go besides metrics.jsonl: what every logger offers. Tracking never prompts, fails or delays a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runs.directory import RunDirectory


class Logger(Protocol):
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Named values of one step; "split/name" groups them."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The end of a whole run, with the content of summary.json."""


class NoLogger:
    """Drops everything: for logger=none, and on every rank but 0."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class StageLogger:
    """One stage's part in the record of the whole run: its steps are counted on from `first_step`, and curves carry the
    number of the stage."""

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
