"""How long the rest of an ablation takes, from the first steps of its runs and from those that have finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from recipes.ablate.configurations import Job
from recipes.ablate.record import Record

FIRST_STEPS = 2  # a run says how long it takes once it has logged so many steps: the first one is slower


class Estimate:
    """The seconds of a run: the mean of finished ones of its configuration, else of all finished ones; before any has
    finished, start-up and first evaluation counted twice (a run evaluates again at its end), and its steps at the rate
    of those that it has made."""

    def __init__(self, record: Record, max_steps: Callable[[Job], int | None], *, slots: int, num_jobs: int) -> None:
        self.record, self.max_steps, self.slots, self.num_jobs = record, max_steps, slots, num_jobs
        self._from_steps: dict[Job, float] = {}
        self._failed_before = {job: entry for job, entry in record.jobs.items() if entry["status"] == "failed"}

    def read_steps(self, running: Mapping[Job, float]) -> bool:
        """Read the first steps of the jobs that run, by their starting times. Returns whether this has given the first
        estimate of all."""
        if self._from_steps or self._finished():
            return False
        for job, started in running.items():
            line, steps = last_train_line(self.record.run_folder(job)), self.max_steps(job)
            if line is None or steps is None or line["step"] < min(FIRST_STEPS, steps):
                continue
            before = max(time.monotonic() - started - line["seconds"], 0.0)
            self._from_steps[job] = 2 * before + line["seconds"] / line["step"] * steps
        return bool(self._from_steps)

    def remaining_s(self, running: Mapping[Job, float]) -> float | None:
        """The seconds until all jobs are finished; None if nothing is known of them."""
        if self.of(None) is None:
            return None
        waiting = [
            job
            for job, entry in self.record.jobs.items()  # one that failed in an earlier command keeps that entry
            if entry["status"] not in ("finished", "failed") or entry is self._failed_before.get(job)
        ]
        unnamed = self.num_jobs - len(self.record.jobs)  # trials that a search has not drawn
        total = unnamed * (self.of(None) or 0.0)
        total += sum(max((self.of(job) or 0.0) - self._spent(job, running), 0.0) for job in waiting)
        return total / min(self.slots, max(len(waiting) + unnamed, 1))

    def _spent(self, job: Job, running: Mapping[Job, float]) -> float:
        """The seconds that a job has run: since its start, or those of its steps if it was resumed."""
        line = last_train_line(self.record.run_folder(job))
        elapsed = time.monotonic() - running[job] if job in running else 0.0
        return max(elapsed, line["seconds"] if line else 0.0)

    def of(self, job: Job | None) -> float | None:
        """The seconds of a job (None: of any); None if nothing is known."""
        finished = self._finished()
        own = [seconds for other, seconds in finished.items() if job and other.configuration == job.configuration]
        values: Collection[float] = own or list(finished.values()) or self._from_steps.values()
        return fmean(values) if values else None

    def _finished(self) -> dict[Job, float]:
        entries = self.record.jobs.items()
        return {job: entry["seconds"] for job, entry in entries if entry["status"] == "finished" and entry["seconds"]}


def last_train_line(run: Path) -> dict[str, Any] | None:
    """The last training line of metrics.jsonl; None if there is none yet."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        return None
    for text in reversed(file.read_text(errors="replace").splitlines()):
        try:
            line = json.loads(text)
        except ValueError:  # it is being written
            continue
        if line.get("split") == "train" and line.get("seconds") is not None:
            return dict(line)
    return None


def steps_of(tree: Mapping[str, Any]) -> int | None:
    """The optimizer updates of a run by its settings; None for a run with stages, or one that counts epochs."""
    trainer = tree.get("trainer") or {}
    steps = trainer.get("max_steps")
    return steps if isinstance(steps, int) and trainer.get("max_epochs") is None else None
