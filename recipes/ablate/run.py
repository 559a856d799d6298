"""An ablation from its configurations to its table: check, print the plan, run the jobs, write what came out."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.progress import duration
from engines.distributed import preemption
from engines.distributed.preemption import Preempted
from recipes.ablate.cluster import Cluster, ClusterTask
from recipes.ablate.config import AblateConfig
from recipes.ablate.configurations import Configuration, Job, as_setting, merged
from recipes.ablate.estimate import Estimate, steps_of
from recipes.ablate.outcome import update_results, write_outcome
from recipes.ablate.plan import print_plan
from recipes.ablate.processes import LocalProcess, command_of, environment_of
from recipes.ablate.record import Compose, Record, take_over
from recipes.ablate.schedule import Outcome, Process, Scheduler, Source
from recipes.ablate.search import Search, check_kind
from recipes.run_config import RunConfig
from runs.files import read_json
from runs.lock import holder_of, lock_run
from runs.settings_tree import as_tree

LEFTOVER_S = 300.0  # wait for jobs of a killed command, which write their checkpoints


@dataclass(frozen=True)
class Ablation:
    """What is to be run. `compose` makes the checked tree of a run's settings. `space` holds the ranges of a search,
    which has no configurations yet; `example` is one of the configurations, or of the search's points."""

    options: AblateConfig
    folder: Path
    common: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    space: Mapping[str, tuple[str, list[Any]]]
    compose: Compose
    build_run: Callable[[Sequence[str]], RunConfig]
    example: Configuration
    config_dir: str | None = None

    @property
    def num_jobs(self) -> int:
        configurations = self.options.num_trials if self.space else len(self.configurations)
        return configurations * len(self.options.all_seeds)

    def tree(self, configuration: Configuration) -> Mapping[str, Any]:
        """The checked settings of a configuration's runs."""
        return self.compose(merged(self.common, configuration.overrides))

    def build(self, configuration: Configuration) -> RunConfig:
        """The settings of a configuration's runs as objects."""
        return self.build_run(merged(self.common, configuration.overrides))

    def stored_tree(self, settings: Sequence[str]) -> Mapping[str, Any]:
        """The settings of a run as its config.yaml has them."""
        tree: Mapping[str, Any] = as_tree(self.build_run(settings))
        return tree

    def overrides(self, job: Job) -> list[str]:
        """The settings of a job's run, as on the command line of launch/train.py."""
        place = as_setting("output_dir", str(self.folder / "runs"))
        own = [f"seed={job.seed}", f"run_name={job.name}", place, "resume=auto"]
        logger = self.tree(job.configuration).get("logger") or {}
        tracked = {"group": self.folder.name, "job_type": "ablation"}  # of W&B
        own += [as_setting(f"logger.{key}", value) for key, value in tracked.items() if logger.get(key, "") is None]
        return [*merged(self.common, job.configuration.overrides), *own]


class Listed:
    """The jobs of a list, in its order."""

    def __init__(self, record: Record, jobs: Sequence[Job]) -> None:
        self._record, self._queue = record, deque(jobs)

    def next_job(self) -> Job | None:
        return self._queue.popleft() if self._queue else None

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._record.ended(job, outcome)


@preemption.handle_signals()
def ablate(ablation: Ablation) -> None:
    """Print the plan, run the jobs and write the outcome.

    Raises ValueError at the end if a job failed; everything is written then. A signal stops the jobs, each with a
    checkpoint, and raises `Preempted`.
    """
    options, folder = ablation.options, ablation.folder
    record = Record(folder, ablation.common, [], options.all_seeds, options.baseline)
    for configuration in ablation.configurations:
        record.add(configuration)
    check_kind(folder, is_search=bool(ablation.space))
    if options.dry_run:
        take_over(record, ablation.stored_tree)
        print_plan(ablation, record)
        return
    lock_run(folder)
    if options.cluster != "slurm":  # there they are taken over
        _wait_for_leftovers(folder / "runs")
    search = _search(ablation, record) if ablation.space else None
    take_over(record, ablation.stored_tree)
    print_plan(ablation, record)
    _update(record)
    source: Source = search or Listed(record, [job for job in record.jobs if not record.is_finished(job)])
    _run(ablation, record, source)
    write_outcome(record, search)
    if preemption.requested():
        done = f"{record.count('finished')} of {ablation.num_jobs} jobs finished"
        raise Preempted(f"with {done}, the others go on from their checkpoints")
    if failed := [job for job, entry in record.jobs.items() if entry["status"] in ("failed", "stopped")]:
        raise ValueError(
            f"{len(failed)} of {ablation.num_jobs} jobs failed: {failed[0].label}: {record.jobs[failed[0]]['error']} "
            f"(log {record.log(failed[0])}); the same command tries again"
        )


def _run(ablation: Ablation, record: Record, source: Source) -> None:
    estimate = Estimate(
        record,
        lambda job: steps_of(ablation.tree(job.configuration)),
        slots=ablation.options.jobs,
        num_jobs=ablation.num_jobs,
    )
    shown = _Shown(ablation, record, source, estimate)
    scheduler = Scheduler(
        shown,
        shown.start,
        slots=ablation.options.jobs,
        retries=ablation.options.retries,
        is_finished=record.is_finished,
        watch=shown.watch,
    )
    preemption.defer_signals()
    scheduler.run()


class _Shown:
    """A source whose jobs are shown when they start and end, and noted in ablation.json. The time that is left is shown
    with the first steps and whenever a job has ended."""

    def __init__(self, ablation: Ablation, record: Record, source: Source, estimate: Estimate) -> None:
        self.ablation, self.record, self.source, self.estimate = ablation, record, source, estimate
        self._running: dict[Job, float] = {}
        self._launcher = _launcher(ablation, record)

    def next_job(self) -> Job | None:
        return self.source.next_job()

    def start(self, job: Job, slot: int) -> Process:
        again = " again, from its last checkpoint" if job in self._running else ""
        self._say(f"{job.label}: started{again}, log {self.record.log(job)}")
        self._running[job] = time.monotonic()
        return self._launcher(job, slot)

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._running.pop(job)
        self.source.ended(job, outcome)
        _update(self.record)
        if outcome.status == "failed":
            self._say(f"{job.label}: failed: {outcome.error} (log {self.record.log(job)})")
        elif outcome.status == "stopped":
            self._say(f"{job.label}: stopped; the same command resumes it")
        else:
            summary = read_json(self.record.run_folder(job) / "summary.json")
            value = f"{summary['metric']} {summary['after']:.4f}"
            self._say(f"{job.label}: {value}, {duration(outcome.seconds)}{self._rest()}")

    def watch(self, running: Mapping[Job, float]) -> None:
        if self.estimate.read_steps(running):
            self._say(f"after the first steps{self._rest()}")

    def _rest(self) -> str:
        done, seconds = self.record.count("finished"), self.estimate.remaining_s(self._running)
        trainer = self.ablation.tree(self.ablation.example).get("trainer") or {}
        about = "at most about" if trainer.get("early_stopping_patience") else "about"
        left = f", {about} {duration(seconds)} left" if seconds else ""
        return f"; {done} of {self.ablation.num_jobs} jobs finished{left}"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _update(record: Record) -> None:
    """Write ablation.json, with the results so far. Broken files of a run are an error at the end alone."""
    with suppress(ValueError):
        update_results(record)


def _launcher(ablation: Ablation, record: Record) -> Callable[[Job, int], Process]:
    """The function that starts a job in a slot."""
    options = ablation.options
    if options.cluster is not None:
        return Cluster(
            options.cluster,
            record.folder,
            options.submitit,
            name=record.folder.name,
            nodes=options.nodes,
            task=lambda job, stop_file: ClusterTask(
                ablation.overrides(job), options.ranks, ablation.config_dir, record.log(job), stop_file
            ),
        ).start
    gpus = visible_gpus()

    def start(job: Job, slot: int) -> Process:
        command = command_of(ablation.overrides(job), ranks=options.ranks, config_dir=ablation.config_dir)
        variables = environment_of(slot, jobs=options.jobs, ranks=options.ranks, gpus=gpus)
        return LocalProcess(command, record.log(job), variables)

    return start


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def _search(ablation: Ablation, record: Record) -> Search:
    def dev_value(job: Job) -> float | None:
        value = read_json(record.run_folder(job) / "summary.json")["best_dev"]
        return None if value is None else float(value)

    return Search(
        record.folder,
        ablation.space,
        ablation.options.num_trials,
        seeds=ablation.options.all_seeds,
        add=record.add,
        dev_value=dev_value,
        is_finished=record.is_finished,
        note=record.ended,
    )


def _wait_for_leftovers(runs: Path) -> None:
    """Wait until no process of a killed command trains in a run of this ablation. Raises ValueError, which names one
    that goes on."""
    started, is_reported = time.monotonic(), False
    while held := [(path, holder) for path in sorted(runs.glob("*/")) if (holder := holder_of(path))]:
        folder, holder = held[0]
        if time.monotonic() - started > LEFTOVER_S:
            raise ValueError(f"{folder} is in use by {holder}: wait until it ends, or end it")
        if not is_reported:
            print(f"waiting for {holder}, which still runs in {folder}", file=sys.stderr, flush=True)
            is_reported = True
        time.sleep(0.5)
