"""Loggers that need no library. A logger never prompts, and never stops or delays a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runs.directory import RunDirectory
from trainers.record import Logger


class NoLogger:
    """A logger that does nothing: for logger=none, and for all ranks except 0."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def alert(self, title: str, text: str) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass

    def stop(self, error: BaseException) -> None:
        pass


@dataclass(frozen=True)
class StageLogger:
    """Logs one stage of a run: steps count from `first_step`, and every record has the number of the stage."""

    logger: Logger
    number: int
    first_step: int

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logger.log({**metrics, "stage": self.number}, self.first_step + step)

    def alert(self, title: str, text: str) -> None:
        self.logger.alert(title, f"stage {self.number}: {text}")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: the run's logger stays open for the next stage."""

    def stop(self, error: BaseException) -> None:
        """Do nothing: the run's logger is told by the run."""


@dataclass(frozen=True)
class NoneConfig:
    """No logger: metrics are only in metrics.jsonl."""

    def build(self, run: RunDirectory, settings: Mapping[str, Any]) -> Logger:
        return NoLogger()
