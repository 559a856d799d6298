"""ablation.json: what an ablation consists of, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.ablate.configurations import Configuration, Job, merged
from recipes.ablate.schedule import Outcome
from runs.files import read_json, write_json
from runs.redaction import redact_tree
from runs.settings_diff import differences, texts_of

FILE = "ablation.json"
Compose = Callable[[Sequence[str]], Mapping[str, Any]]  # settings of a run -> its checked tree


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
            "settings": list(self.common),
            "metric": (self.results or {}).get("metric"),
            "baseline": self.baseline or first,
            "seeds": seeds,
            "configurations": [{"name": each.name, "overrides": list(each.overrides)} for each in shown],
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
    ValueError if settings differ from those of runs that are finished or have a checkpoint.
    """
    if not record.file.is_file():
        return
    stored = read_json(record.file)
    overrides = {each["name"]: each["overrides"] for each in stored["configurations"]}
    entries = {entry["run"]: entry for entry in stored["jobs"]}
    for job, entry in record.jobs.items():
        if earlier := entries.pop(f"runs/{job.name}", None):
            entry["seconds"] = earlier["seconds"]
            if entry["status"] == "waiting":  # a job that was running when the command was killed is "waiting" there
                entry |= {"status": earlier["status"], "error": earlier["error"]}
            if entry["status"] == "finished" and not record.is_finished(job):  # its folder was removed
                entry |= {"status": "waiting", "seconds": None}
    for configuration in record.configurations:
        if configuration.name in overrides and any(map(_has_trained(record), _jobs_of(record, configuration))):
            _check_unchanged(record, configuration, stored["settings"], overrides[configuration.name], compose)
    named = {configuration.name for configuration in record.configurations}
    record.earlier_jobs = [
        entry
        for entry in entries.values()
        if entry["status"] == "finished" and (record.folder / entry["run"] / "summary.json").is_file()
    ]
    kept = {entry["configuration"] for entry in record.earlier_jobs} - named
    record.earlier = [Configuration.of(name, overrides[name]) for name in overrides if name in kept]


def _jobs_of(record: Record, configuration: Configuration) -> list[Job]:
    return [job for job in record.jobs if job.configuration == configuration]


def _has_trained(record: Record) -> Callable[[Job], bool]:
    patterns = ("summary.json", "checkpoints/step-*", "stages/*/checkpoints/step-*")
    return lambda job: any(any(record.run_folder(job).glob(pattern)) for pattern in patterns)


def _check_unchanged(
    record: Record, configuration: Configuration, settings: Sequence[str], own: Sequence[str], compose: Compose
) -> None:
    """Raise ValueError if the settings of a configuration are others than those that its runs were started with."""
    try:
        before = compose(merged(settings, own))
    except ValueError as error:
        raise ValueError(
            f"{record.file}: the settings of {configuration.name} are not valid any more ({error}): choose another "
            "run_name"
        ) from None
    now = compose(merged(record.common, configuration.overrides))
    changed, _ = differences(redact_tree(before), redact_tree(now))
    if changed:
        shown = ", ".join(texts_of(changed)[:5])
        raise ValueError(
            f"{record.folder} was started with other settings: {shown} (in {configuration.name}). Repeat them, choose "
            f"another run_name, or remove {record.folder / 'runs'}/{configuration.folder}-seed*"
        )
