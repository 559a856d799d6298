"""A W&B run in a thread of its own, so that it never stops or delays training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.progress import write_above
from engines.distributed.preemption import INTERRUPTED, Preempted
from runs.loggers.logged_steps import LoggedSteps
from runs.loggers.wandb_artifacts import Choice, declare_inputs, log_outputs
from runs.loggers.wandb_history import logged_before
from runs.loggers.wandb_tables import tables_of
from runs.redaction import redact
from runs.stored_run import StoredRun

START_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0  # a run that fails or is preempted must end soon
AT_ONCE_S = 1.0  # after a second Ctrl-C
TITLE_LENGTH = 63  # W&B's limit of an alert's title
TEXT_LENGTH = 1000

# Split -> what W&B's summary keeps of its metrics. That of test is the value of the last model: it is not chosen by it.
SUMMARIES = {
    "train/*": None,
    "train/loss": "min,last",
    "train/reward_mean": "max,last",
    "dev/*": "max,last",
    "test/*": None,
    "stage": None,
}


@dataclass(frozen=True)
class RunFiles:
    """What a logger reads of a run beside its metrics: its folder, its settings, which files become artifacts, and the
    folder of W&B's own files (None: there are no earlier ones)."""

    folder: Path
    settings: Mapping[str, Any]
    artifacts: Choice = "none"
    wandb: Path | None = None


class WandbLogger:
    """Logs to W&B from a separate thread. An error or a delay there is reported once and does not slow down
    training."""

    def __init__(
        self,
        start: Callable[[], Any],
        files: RunFiles,
        *,
        start_timeout_s: float = START_TIMEOUT_S,
        upload_timeout_s: float = FINISH_TIMEOUT_S,
    ):
        self._files, self._steps = files, LoggedSteps()
        self._finish_timeout_s = FINISH_TIMEOUT_S
        if files.artifacts != "none":
            self._finish_timeout_s = max(upload_timeout_s, FINISH_TIMEOUT_S)
        self._jobs: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._started = threading.Event()
        self._failed = False
        self._exit_code = 1  # of a run that is left because W&B failed, unless training has ended well
        self._thread = threading.Thread(target=self._work, args=(start,), name="wandb", daemon=True)
        self._thread.start()
        # Wait, so that the data loader's workers are not forked while W&B is imported.
        if not self._started.wait(start_timeout_s):
            self._give_up(f"it did not start in {start_timeout_s:.0f} s")
        if files.artifacts != "none":
            self._put(lambda run: declare_inputs(run, files.folder, files.settings))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        values = dict(metrics)

        def log(run: Any) -> None:
            if new := self._steps.new(values, step):
                run.log({**new, "step": step})
                self._steps.add(new, step)

        self._put(log)

    def alert(self, title: str, text: str) -> None:
        self._put(lambda run: run.alert(title=_title(title), text=redact(text)[:TEXT_LENGTH], level="WARN"))

    def finish(self, summary: Mapping[str, Any], timeout_s: float | None = None) -> None:
        content = dict(summary)

        def end(run: Any) -> None:
            self._log_results(run, content)
            run.finish()

        self._exit_code = 0
        self._end(end, self._finish_timeout_s if timeout_s is None else timeout_s)

    def stop(self, error: BaseException, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Mark the run as preempted, interrupted by Ctrl-C, or failed. W&B's sweeps start a preempted one again."""
        interrupted = isinstance(error, KeyboardInterrupt) or (isinstance(error, Preempted) and error.by_user)
        text = redact(f"{type(error).__name__}: {error}")[:TEXT_LENGTH]

        def end(run: Any) -> None:
            if interrupted:
                run.finish(exit_code=INTERRUPTED)
            elif isinstance(error, Preempted):
                run.mark_preempting()
                run.finish(exit_code=error.exit_status)
            else:
                kind = "not finite" if isinstance(error, FloatingPointError) else "failed"
                run.alert(title=_title(f"{self._files.folder.name}: {kind}"), text=text, level="ERROR")
                run.finish(exit_code=1)

        self._end(end, AT_ONCE_S if isinstance(error, KeyboardInterrupt) else timeout_s)

    def _log_results(self, run: Any, summary: Mapping[str, Any]) -> None:
        """Log the tables, the final values and the artifacts of the finished run."""
        import wandb

        run.summary.update(dict(summary))
        folder = self._files.folder
        queries = StoredRun.read(folder).queries()
        tables = {
            name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in tables_of(summary, queries).items()
        }
        best_dev = summary.get("best_dev")
        values = {} if best_dev is None else {"best_dev": best_dev}  # in the history too: what a sweep optimises
        if tables or values:
            run.log({**tables, **values, "step": summary.get("steps", 0)})
        if self._files.artifacts != "none":
            log_outputs(run, folder, self._files.artifacts)

    def _put(self, job: Callable[[Any], None]) -> None:
        if not self._failed:
            self._jobs.put(job)

    def _end(self, job: Callable[[Any], None], timeout_s: float) -> None:
        """Do a last job and wait for the thread."""
        if self._failed:
            return
        self._jobs.put(job)
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._give_up(f"it did not finish in {timeout_s:.0f} s")

    def _work(self, start: Callable[[], Any]) -> None:
        run = None
        try:
            run = start()
            define_metrics(run)
            self._started.set()
            if self._files.wandb is not None:
                self._steps = logged_before(self._files.wandb, run.id, self._files.settings)
            while (job := self._jobs.get()) is not None and not self._failed:
                job(run)
        except BaseException as error:  # no exception of a tracker, SystemExit included, may end the run
            self._give_up(" ".join(f"{type(error).__name__}: {error}".split()))
            self._started.set()
        if run is not None and self._failed:  # else it stays "running" there; nobody waits for this thread
            with suppress(BaseException):
                run.finish(exit_code=self._exit_code)

    def _give_up(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._jobs.put(None)  # the thread may wait for a job
            write_above(f"warning: the run continues without W&B: {reason}")


def define_metrics(run: Any) -> None:
    """Draw the metrics of every split over the trainer's step (W&B's own step counts calls), and choose what the
    summary keeps of them."""
    run.define_metric("step", hidden=True)
    for name, summary in SUMMARIES.items():
        run.define_metric(name, step_metric="step", **({} if summary is None else {"summary": summary}))


def _title(text: str) -> str:
    return redact(text)[:TITLE_LENGTH]
