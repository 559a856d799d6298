"""The runs of a page of several runs, each with a number and a name that no other has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runs.files import read_json
from runs.redaction import redact
from runs.report.content import RANKERS, result_rows
from runs.stage_folders import STAGES
from runs.stored_run import StoredRun

ABLATION = "ablation.json"
FINISHED, UNFINISHED, FAILED = "finished", "not finished", "failed"


@dataclass(frozen=True)
class ShownRun:
    """A run of the page. `status` says whether it is finished; `error` why it is not, in one line, if that is known.
    `job`: the folder of the ablation whose job it is, and its configuration there; empty for any other run."""

    stored: StoredRun
    name: str
    number: int = 0
    status: str = FINISHED
    error: str | None = None
    job: tuple[str, str] | tuple[()] = ()

    @property
    def label(self) -> str:
        return f"{self.number} {self.name}"

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.stored.summary or {}

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        return self.stored.metrics()

    @cached_property
    def queries(self) -> dict[str, dict[str, Any]]:
        return self.stored.queries()

    @property
    def metric(self) -> str:
        """The metric that the run is judged by; empty if its files do not say."""
        options = self.stored.config.get("eval")
        return str(self.summary.get("metric") or (options or {}).get("metric") or "")

    @property
    def last_step(self) -> int | None:
        """The last step of training that has a line; None if there is none."""
        return max((line["step"] for line in self.lines if line["split"] == "train"), default=None)

    def rows(self) -> dict[str, dict[str, float]]:
        """The metrics of each ranker on test. Of an unfinished run those that its metrics.jsonl has."""
        if self.summary:
            return result_rows(self.summary)
        tested = [line for line in self.lines if line["split"] == "test" and "name" in line]
        other = ("step", "split", "stage", "name")
        return {
            RANKERS.get(line["name"], line["name"]): {
                key: value for key, value in line.items() if key not in other and isinstance(value, int | float)
            }
            for line in tested
        }


def select(paths: Sequence[Path]) -> list[ShownRun]:
    """The runs at `paths`: run folders, stages, FILE.json of evaluations, ablation folders (all their jobs). A path
    that is given twice counts once. Raises ValueError, in one line, for any other path."""
    found: list[ShownRun] = []
    for resolved, path in {path.resolve(): path for path in paths}.items():
        if (path / ABLATION).is_file():
            found += jobs_of(path)
        else:
            stored = StoredRun.read(path)
            error = stored.error()
            status = FINISHED if stored.finished else FAILED if error else UNFINISHED
            found.append(ShownRun(stored, _name_of(resolved), status=status, error=error and redact(error)))
    names = unique_names([run.stored.path for run in found], [run.name for run in found])
    named = zip(found, names, strict=True)
    return [replace(run, name=name, number=number) for number, (run, name) in enumerate(named, 1)]


def jobs_of(ablation: Path) -> list[ShownRun]:
    """The jobs of an ablation, in the order of its plan; one that has not started has no files yet."""
    plan, shown = read_json(ablation / ABLATION), []
    for job in plan["jobs"]:
        folder = ablation / job["run"]
        stored = StoredRun.read(folder) if folder.is_dir() else StoredRun(folder, folder.name, {}, None, {})
        error = job.get("error") or stored.error()
        name = f"{job['configuration']}, seed {job['seed']}"
        own = (str(ablation), job["configuration"])
        shown.append(ShownRun(stored, name, status=job["status"], error=error and redact(str(error)), job=own))
    return shown


def unique_names(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """The names, with as many folders before them as are needed to tell them apart."""
    names = list(names)
    parents = [list((_run_of_stage(path) or path).resolve().parent.parts) for path in paths]
    while len(set(names)) < len(names):
        again = {name for name in names if names.count(name) > 1}
        for place, name in enumerate(names):
            if name in again:
                folder = parents[place].pop() if parents[place] else str(place + 1)
                names[place] = f"{folder.strip('/')}/{name}"
    return names


def _name_of(path: Path) -> str:
    """The name of a folder, or of a file without its suffix; a stage also has that of its run."""
    own = path.stem if path.suffix == ".json" else path.name
    run = _run_of_stage(path)
    return f"{run.name}/{own}" if run else own


def _run_of_stage(path: Path) -> Path | None:
    """The run folder that a folder of a stage lies in; None for any other path."""
    return path.parent.parent if path.parent.name == STAGES else None
