"""Logging to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data.progress import write_above
from engines.distributed.process_group import is_main
from runs.directory import RunDirectory
from runs.loggers.logged_steps import FILE, LoggedSteps, SavedSteps
from runs.loggers.logger import Logger, NoLogger
from runs.redaction import redact_tree
from runs.settings_diff import settings_of_result
from runs.stage_folders import started_settings


@dataclass(frozen=True)
class TensorBoardConfig:
    """Write event files to the run directory's tensorboard/. They are shown by `tensorboard --logdir outputs`."""

    def build(self, run: RunDirectory, settings: Mapping[str, Any]) -> Logger:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("logger=tensorboard needs a package: pip install tensorboard, or logger=none") from None
        if not is_main():
            return NoLogger()
        folder = run.path / "tensorboard"
        return TensorBoardLogger(SummaryWriter(str(folder)), SavedSteps(folder / FILE, settings), settings)


class TensorBoardLogger:
    """Logs to TensorBoard. After an error (a full disk) it prints one warning and stops logging."""

    def __init__(self, writer: Any, steps: LoggedSteps, settings: Mapping[str, Any]):
        self.writer, self._steps, self._settings = writer, steps, settings

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        def write(writer: Any) -> None:
            new = self._steps.new(metrics, step)
            for name, value in new.items():
                writer.add_scalar(name, value, step)
            writer.flush()  # before the step counts as logged: the process may be killed
            self._steps.add(new, step)

        self._try(write)

    def alert(self, title: str, text: str) -> None:
        self._try(lambda writer: writer.add_text("alerts", f"{title}: {text}"))

    def finish(self, summary: Mapping[str, Any]) -> None:
        def write(writer: Any) -> None:
            write_hparams(writer, self._settings, summary)
            writer.close()

        self._try(write)

    def stop(self, error: BaseException) -> None:
        self._try(lambda writer: writer.close())

    def _try(self, write: Callable[[Any], None]) -> None:
        try:
            if self.writer is not None:
                write(self.writer)
        except Exception as error:
            self.writer = None
            write_above(f"warning: the run continues without TensorBoard: {type(error).__name__}: {error}")


def write_hparams(writer: Any, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write the settings that change the result and the final metrics, as the HParams page of TensorBoard reads them.

    They go to the run's own event file: `SummaryWriter.add_hparams` would make a second run of them.
    """
    from torch.utils.tensorboard.summary import hparams

    metrics = final_metrics(summary)
    for name, value in metrics.items():
        writer.add_scalar(name, value, summary.get("steps", 0))
    for part in hparams(hyperparameters(settings), metrics):
        writer.file_writer.add_summary(part)


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The settings that change the result, by dotted key: classes by their names, lists as text, without secrets, and
    without those of stages that are not trained."""
    used = started_settings(settings, settings.get("stages") or [])
    leaves = settings_of_result(redact_tree(used))
    values: dict[str, bool | int | float | str] = {}
    for key, value in leaves.items():
        if key.endswith("_target_"):
            key, value = key.removesuffix("._target_"), str(value).rpartition(".")[2]
        if value is not None and value != {}:
            values[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return values


def final_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the finished run by the names of its curves: the best on dev, and those on test of each ranker."""
    metrics = {} if summary.get("best_dev") is None else {"best_dev": float(summary["best_dev"])}
    for ranker, means in (summary.get("metrics") or {}).items():
        metrics |= {f"final/{ranker}/{name}": value for name, value in means.items() if value is not None}
    return metrics
