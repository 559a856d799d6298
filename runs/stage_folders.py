"""The folders of a run with stages: each stage has a run directory of its own below stages/, and the run's
metrics.jsonl joins theirs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.files import write_atomic

STAGES = "stages"  # the folder of the stages in the run directory


def stage_folder(run: Path, number: int, name: str) -> Path:
    """The folder of a stage, outputs/RUN/stages/1-NAME for the first."""
    return run / STAGES / f"{number}-{name}"


def started_stages(run: Path) -> list[str]:
    """The names of the stages that have a checkpoint or are finished, in their order; empty for a run without stages.

    Raises ValueError if a stage has started and the one before is not finished: the model that it started from is gone.
    """
    names: list[str] = []
    is_finished = True
    problem = ""  # what is wrong with the stage before
    for number, name, folder in _folders(run):
        if not _has_started(folder):
            continue
        if number != len(names) + 1 or not is_finished:
            raise ValueError(
                f"{folder} was started from the model of stage {number - 1}, which is {problem or 'gone'}: remove that "
                "folder too, and the same command trains both stages again"
            )
        names.append(name)
        is_finished = (folder / "summary.json").is_file()
        problem = "" if is_finished else "not finished"
    return names


def started_settings(settings: Mapping[str, Any], started: Sequence[str]) -> dict[str, Any]:
    """The settings without those of the stages that have not started."""
    if not started:
        return dict(settings)
    nodes, names = settings.get("stage") or {}, settings.get("stages") or []
    return {**settings, "stages": names[: len(started)], "stage": {name: nodes.get(name) for name in started}}


def remove_unstarted(run: Path) -> None:
    """Remove the folders of stages that have not started: other stages may replace them."""
    for _, _, folder in _folders(run):
        if not _has_started(folder):
            shutil.rmtree(folder)


def link_checkpoints(run: Path, stage: Path) -> None:
    """Make `run`/checkpoints a link to the checkpoints of the stage."""
    link = run / "checkpoints"
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        link.rmdir()
    link.symlink_to(os.path.relpath(stage / "checkpoints", run), target_is_directory=True)


@dataclass(frozen=True)
class StageLines:
    """Writes the lines of one stage to the run's metrics.jsonl: steps count from `first_step`, and each line names its
    stage."""

    file: Path  # metrics.jsonl of the run
    stage: str
    first_step: int

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one line of the stage."""
        with self.file.open("a") as file:
            file.writelines(self._convert([record]))

    def copy(self, metrics: Path) -> None:
        """Append all lines of the stage's own metrics.jsonl."""
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
        with self.file.open("a") as file:
            file.writelines(self._convert(map(json.loads, lines)))

    def rewrite(self, metrics: Path) -> None:
        """Write the lines of the stage again, after its own metrics.jsonl was cut."""
        lines = self.file.read_text().splitlines(keepends=True)
        write_atomic(self.file, "".join(line for line in lines if json.loads(line)["stage"] != self.stage))
        self.copy(metrics)

    def _convert(self, records: Iterator[Any] | Sequence[Mapping[str, Any]]) -> Iterator[str]:
        for record in records:
            if self.first_step and record["split"] == "test" and record["step"] == 0:
                continue  # a later stage starts with the final scores of the one before, whose line is there
            head = {"step": self.first_step + record["step"], "split": record["split"], "stage": self.stage}
            yield json.dumps({**head, **{key: value for key, value in record.items() if key not in head}}) + "\n"


def _folders(run: Path) -> list[tuple[int, str, Path]]:
    """The (number, name, folder) of every stage, in order."""
    matches = [(re.fullmatch(r"(\d+)-(.+)", path.name), path) for path in (run / STAGES).glob("*-*")]
    return sorted((int(match[1]), match[2], path) for match, path in matches if match)


def _has_started(folder: Path) -> bool:
    """Whether a stage has a checkpoint or is finished."""
    checkpoints = (path.name for path in (folder / "checkpoints").glob("step-*"))
    return (folder / "summary.json").is_file() or any(re.fullmatch(r"step-\d+", name) for name in checkpoints)
