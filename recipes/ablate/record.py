"""ablation.json: what an ablation consists of, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.ablate.configurations import Configuration, Job, merged
from recipes.ablate.schedule import Outcome
from recipes.ablate.unchanged import StoredJob, check_unchanged
from runs.files import read_json, write_json
from runs.redaction import redact_setting, redact_tree

FILE = "ablation.json"
Compose = Callable[[Sequence[str]], Mapping[str, Any]]  # settings of a run -> its tree


@dataclass
class Record:
    """The content of ablation.json. `earlier` are configurations of the folder that this command does not name, with
    their finished jobs; they stay, and are in the table."""

    folder: Path
    common: Sequence[str]
    configurations: list[Configuration]
    seeds: Sequence[int]
    baseline: str | None = None
    earlier: list[Configuration] = field(default_factory=list)
    earlier_jobs: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[Job, dict[str, Any]] = field(default_factory=dict)  # status, error and seconds
    results: dict[str, Any] | None = None

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def run_folder(self, job: Job) -> Path:
        return self.folder / "runs" / job.name

    def log(self, job: Job) -> Path:
        return self.folder / "logs" / f"{job.name}.log"

    def is_finished(self, job: Job) -> bool:
        return (self.run_folder(job) / "summary.json").is_file()

    def add(self, configuration: Configuration) -> list[Job]:
        """Add a configuration with a job for each seed, finished ones as such. Returns its jobs."""
        if configuration not in self.configurations:
            self.configurations.append(configuration)
        jobs = [Job(configuration, seed) for seed in self.seeds]
        for job in jobs:
            status = "finished" if self.is_finished(job) else "waiting"
            self.jobs.setdefault(job, {"status": status, "error": None, "seconds": None})
        return jobs

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Note how a job has ended. The seconds of all its processes are added up."""
        before = self.jobs[job]["seconds"] or 0.0
        self.jobs[job] = {
            "status": outcome.status,
            "error": outcome.error,
            "seconds": round(before + outcome.seconds, 1),
        }

    def count(self, status: str) -> int:
        return sum(entry["status"] == status for entry in self.jobs.values())

    def as_dict(self) -> dict[str, Any]:
        """The content of the file: secrets are redacted, as in config.yaml."""
        shown = [*self.earlier, *self.configurations]
        jobs = [{**_names(job), **entry} for job, entry in self.jobs.items()]
        seeds = sorted({*self.seeds, *(entry["seed"] for entry in self.earlier_jobs)})
        first = next((each.name for each in (*self.configurations, *self.earlier)), None)
        content = {
            "name": self.folder.name,
            "settings": list(map(redact_setting, self.common)),
            "metric": (self.results or {}).get("metric"),
            "baseline": self.baseline or first,
            "seeds": seeds,
            "configurations": [
                {"name": each.name, "overrides": list(map(redact_setting, each.overrides))} for each in shown
            ],
            "jobs": [*self.earlier_jobs, *jobs],
        }
        return {**redact_tree(content), "results": self.results}

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.as_dict())


def _names(job: Job) -> dict[str, Any]:
    return {"configuration": job.configuration.name, "seed": job.seed, "run": f"runs/{job.name}"}


def take_over(record: Record, compose: Compose) -> None:
    """Read what an earlier command has left in the folder into `record`, which has its own configurations and jobs.

    Jobs of the same name keep their seconds and errors. Other configurations stay if they have finished jobs. Raises
    ValueError if settings differ from those of runs that are finished or have a checkpoint, also of other seeds and of
    configurations that are not named any more.
    """
    stored = read_json(record.file) if record.file.is_file() else {"configurations": [], "jobs": []}
    configurations = {
        each["name"]: Configuration.of(each["name"], each["overrides"]) for each in stored["configurations"]
    }
    entries = {entry["run"]: entry for entry in stored["jobs"]}
    for job, entry in record.jobs.items():
        if earlier := entries.pop(f"runs/{job.name}", None):
            entry["seconds"] = earlier["seconds"]
            if entry["status"] == "waiting":  # a job that was running when the command was killed is "waiting" there
                entry |= {"status": earlier["status"], "error": earlier["error"]}
            if entry["status"] == "finished" and not record.is_finished(job):  # its folder was removed
                entry |= {"status": "waiting", "seconds": None}
    named = {configuration.name: configuration for configuration in record.configurations}
    jobs = [StoredJob(job.configuration, job.seed, record.run_folder(job)) for job in record.jobs]
    for entry in entries.values():
        configuration = {**configurations, **named}[entry["configuration"]]
        jobs.append(StoredJob(configuration, entry["seed"], record.folder / entry["run"]))
    check_unchanged(record.folder, jobs, lambda each: compose(merged(record.common, each.overrides)))
    record.earlier_jobs = [
        entry
        for entry in entries.values()
        if entry["status"] == "finished" and (record.folder / entry["run"] / "summary.json").is_file()
    ]
    kept = {entry["configuration"] for entry in record.earlier_jobs} - named.keys()
    record.earlier = [configuration for name, configuration in configurations.items() if name in kept]
