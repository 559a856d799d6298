"""Logging to TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.progress import write_above
from engines.distributed.process_group import is_main
from runs.directory import RunDirectory
from runs.loggers.logger import Logger, NoLogger


@dataclass(frozen=True)
class TensorBoardConfig:
    """Write event files to the run directory's tensorboard/. They are shown by `tensorboard --logdir outputs`."""

    def build(self, run: RunDirectory, settings: Mapping[str, Any]) -> Logger:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("logger=tensorboard needs a package: pip install tensorboard, or logger=none") from None
        return TensorBoardLogger(SummaryWriter(str(run.path / "tensorboard"))) if is_main() else NoLogger()


class TensorBoardLogger:
    """Logs to TensorBoard. After an error (a full disk) it prints one warning and stops logging."""

    def __init__(self, writer: Any):
        self.writer = writer

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        try:
            for name, value in metrics.items() if self.writer else ():
                self.writer.add_scalar(name, value, step)
        except Exception as error:
            self._give_up(error)

    def finish(self, summary: Mapping[str, Any]) -> None:
        try:
            if self.writer:
                self.writer.close()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.writer = None
        write_above(f"warning: the run continues without TensorBoard: {type(error).__name__}: {error}")
