"""Run the jobs of an ablation, several at a time, in one thread. It knows no kind of process and no kind of search."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engines.distributed import preemption
from engines.distributed.preemption import REQUEUE
from recipes.ablate.configurations import Job

POLL_S = 0.2


class Process(Protocol):
    """A running job."""

    def poll(self) -> int | None:
        """The exit status once it has ended: negative after a signal, REQUEUE if preempted; None while it runs."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""

    def kill(self) -> None:
        """End it at once."""

    def error(self) -> str:
        """The reason for which it has failed, in one line."""


@dataclass(frozen=True)
class Outcome:
    """The end of a job: "finished", "failed" or "stopped" (it can be resumed). `seconds`: of this process."""

    status: str
    error: str | None
    seconds: float


class Source(Protocol):
    """The origin of jobs: a list, or a search, which reads the outcomes of earlier ones."""

    def next_job(self) -> Job | None:
        """The next job; None if there is none, or none until another has ended."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Take note of how a job has ended. Its run has a summary if, and only if, it is finished."""


@dataclass
class _Running:
    job: Job
    process: Process
    slot: int
    started: float


class Scheduler:
    """Starts jobs of `source` in `slots` slots by `start`, and tells source and `watch` of them.

    A job that is killed by a signal, or preempted, is started again up to `retries` times: it resumes from its
    checkpoint. One that fails is not. `watch` is called in every turn with the jobs that run and their starting times.
    """

    def __init__(
        self,
        source: Source,
        start: Callable[[Job, int], Process],
        *,
        slots: int,
        retries: int,
        is_finished: Callable[[Job], bool],
        watch: Callable[[dict[Job, float]], None] = lambda running: None,
    ) -> None:
        self.source, self.start, self.slots, self.retries = source, start, slots, retries
        self.is_finished, self.watch = is_finished, watch
        self._running: list[_Running] = []
        self._tries: dict[Job, int] = {}
        self._spent: dict[Job, float] = {}

    def run(self) -> None:
        """Run until no job is left, or until a signal has stopped all (`preemption.requested`). Call it in
        `preemption.handle_signals`, after `defer_signals`."""
        is_stopping = False
        try:
            while True:
                if preemption.requested() and not is_stopping:
                    is_stopping = True
                    for each in self._running:
                        each.process.stop()
                if not is_stopping:
                    self._fill()
                if not self._running:
                    return
                for each in list(self._running):
                    status = each.process.poll()
                    if status is not None:
                        self._end(each, status, is_stopping)
                self.watch({each.job: each.started for each in self._running})
                time.sleep(POLL_S)
        finally:  # an error, or Ctrl-C twice
            for each in self._running:
                each.process.kill()

    def _fill(self) -> None:
        while len(self._running) < self.slots and (job := self.source.next_job()) is not None:
            used = {each.slot for each in self._running}
            self._start(job, min(set(range(self.slots)) - used))

    def _start(self, job: Job, slot: int) -> None:
        self._running.append(_Running(job, self.start(job, slot), slot, time.monotonic()))

    def _end(self, each: _Running, status: int, is_stopping: bool) -> None:
        self._running.remove(each)
        job, seconds = each.job, time.monotonic() - each.started + self._spent.get(each.job, 0.0)
        if status == 0 and self.is_finished(job):
            return self.source.ended(job, Outcome("finished", None, seconds))
        was_stopped = status < 0 or status == REQUEUE
        if is_stopping:
            return self.source.ended(job, Outcome("stopped", None, seconds))
        if was_stopped and self._tries.get(job, 0) < self.retries:
            self._tries[job] = self._tries.get(job, 0) + 1
            self._spent[job] = seconds
            return self._start(job, each.slot)
        if status == REQUEUE:
            return self.source.ended(job, Outcome("stopped", "it was preempted", seconds))
        return self.source.ended(job, Outcome("failed", _reason(status, each.process), seconds))


def _reason(status: int, process: Process) -> str:
    if status >= 0:
        return process.error()
    name = signal.Signals(-status).name
    return f"killed by {name}{' (out of memory?)' if -status == signal.SIGKILL else ''}"
