"""The run directory output_dir/run_name: opening it and writing its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engines.checkpoint.manifest import flush
from engines.distributed.collectives import all_agree, broadcast_object, gather_objects
from engines.distributed.process_group import is_main
from runs.environment import START_STEP, read_environment
from runs.files import cut_metrics, json_safe, read_json, write_json
from runs.lock import lock_run
from runs.places import Contents
from runs.prepare import explain_write_errors, prepare
from runs.resume import Finished, Refused, StartFrom, after_restart, decide, on_main, run_folder
from runs.stage_folders import StageLines
from runs.start_from import find_source
from trainers.record import Checkpoint
from trainers.state import TrainState


@dataclass
class RunDirectory:
    """The folder of one run, into which its trainer writes. Every rank has one; only rank 0 writes."""

    path: Path
    summary: dict[str, Any] | None = None  # the summary of a finished run
    checkpoint: Checkpoint | None = None  # from which an unfinished run resumes
    starts_from: str | None = None  # resume=PATH, of a new run that starts from a copy of a checkpoint
    stage_lines: StageLines | None = None  # for a stage: its lines also go to the whole run's metrics.jsonl

    @classmethod
    def open(
        cls,
        settings: Mapping[str, Any],
        *,
        may_differ: Sequence[str] = (),
        read_contents: Callable[[], Contents] = dict,
    ) -> RunDirectory:
        """Open the directory for a tree of settings (run_name, output_dir, resume, ...). Call it on all ranks.

        resume=auto resumes an unfinished run of that name from its newest checkpoint. resume=none moves an existing
        directory aside. resume=PATH starts from a copy of that checkpoint. Exception: if torchrun restarts the ranks
        of a launch, resume=none and resume=PATH resume the directory that this launch has made. Raises ValueError
        on every rank if run_name or PATH is wrong, or if a setting that changes the result differs from the existing
        run's (with stages: a setting of a stage that has started). `may_differ` names further settings that may differ.
        `read_contents` reads, on rank 0, the content of the files that settings name: a run that is resumed may find
        the same files at another path, and no other ones at the same path.
        """
        settings = after_restart(settings)
        folder = run_folder(settings)
        source = on_main(lambda: find_source(settings))  # before the lock: a wrong PATH leaves nothing behind
        contents = on_main(read_contents)
        on_main(lambda: _lock(folder, settings))
        decision = decide(settings, folder, source, may_differ, contents)
        if isinstance(decision, Refused):
            raise ValueError(decision.message)
        if isinstance(decision, Finished):
            run = cls(folder, decision.summary)
        else:
            checkpoint = on_main(lambda: prepare(decision, settings, folder, contents))
            starts_from = str(settings["resume"]) if isinstance(decision, StartFrom) else None
            run = cls(folder, checkpoint=checkpoint, starts_from=starts_from)
        if not all_agree(folder.is_dir()):
            raise ValueError(f"{folder}, made by rank 0, is not visible to every rank: put output_dir on a shared disk")
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def wandb_id_file(self) -> Path:
        return self.path / "wandb" / "run_id"

    def wandb_run_id(self) -> str | None:
        """The id of the W&B run, if there is one."""
        return self.wandb_id_file.read_text().strip() if self.wandb_id_file.is_file() else None

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl: `step` and `split` ("train", "dev" or "test"), then values; NaN becomes null."""
        assert isinstance(metrics["step"], int), "a line of metrics has a step"
        assert metrics["split"] in ("train", "dev", "test"), f"unknown split {metrics['split']!r}"
        if is_main():
            ordered = {"step": metrics["step"], "split": metrics["split"], **metrics}
            with self.metrics_file.open("a") as file:  # closed each time: a crash loses nothing
                file.write(json.dumps(json_safe(ordered), allow_nan=False) + "\n")
            if self.stage_lines is not None:
                self.stage_lines.append(json_safe(ordered))

    def append_nonfinite(self, line: Mapping[str, Any]) -> None:
        """Add a line to nonfinite.jsonl."""
        if is_main():
            with (self.path / "nonfinite.jsonl").open("a") as file:
                file.write(json.dumps(json_safe(line), allow_nan=False) + "\n")

    def cut_metrics(self, state: TrainState) -> None:
        """Remove the lines of steps after a checkpoint's state, to which the run goes back."""
        if is_main():
            cut_metrics(self.metrics_file, state)
            if self.stage_lines is not None:
                self.stage_lines.rewrite(self.metrics_file)

    def flush_metrics(self) -> None:
        """Wait until metrics.jsonl is on disk, so that no checkpoint is newer than its lines."""
        if is_main() and self.metrics_file.is_file():
            flush(self.metrics_file)

    def describe_data(
        self,
        name: str,
        fingerprint: str,
        skipped: Sequence[Mapping[str, str]] = (),
        made: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Record the data's hash and what they were `made` from, and in skipped.jsonl the rows that are left out.
        Raises ValueError on every rank if the hash differs between ranks, or from the one at the start of this run."""
        file = self.path / "environment.json"
        if len(set(gather_objects(fingerprint))) > 1:
            raise ValueError(f"data {name} differs between ranks: give all nodes the same files and packages")
        message = None
        if is_main():
            environment = read_json(file)
            data = {"name": name, "fingerprint": fingerprint, **({"made": dict(made)} if made else {})}
            if environment.get("data", data)["fingerprint"] != fingerprint:  # its name is that of a folder or file
                message = (
                    f"{self.path} was started with other data ({environment['data']['name']}, fingerprint "
                    f"{environment['data']['fingerprint']}, now {name}, {fingerprint}): choose another run_name, or "
                    "resume=none to move it aside"
                )
            else:
                write_json(file, {**environment, "data": data})
                _write_skipped(self.path / "skipped.jsonl", skipped)
        message = broadcast_object(message)
        if message:
            raise ValueError(message)

    def describe_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Record which parts of the model are trained."""
        if is_main():
            file = self.path / "environment.json"
            write_json(file, {**read_json(file), "parameters": parameters})

    def start_step(self) -> int:
        """The step of the checkpoint that the run started from (resume=PATH), also after it was resumed; else 0."""
        step: int = read_environment(self.path).get(START_STEP, 0)
        return step

    def has_line(self, split: str, step: int) -> bool:
        """Whether metrics.jsonl has a line of that split and step."""
        lines = self.metrics_file.read_text().splitlines() if self.metrics_file.is_file() else []
        return any((line["split"], line["step"]) == (split, step) for line in map(json.loads, lines))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json atomically. From now on the run counts as finished."""
        self.summary = json_safe(dict(summary))
        if is_main():
            write_json(self.path / "summary.json", self.summary)


def _lock(folder: Path, settings: Mapping[str, Any]) -> None:
    with explain_write_errors(settings):
        lock_run(folder)


def _write_skipped(file: Path, skipped: Sequence[Mapping[str, str]]) -> None:
    """Write a line for every row that is left out; no file if there is none."""
    file.unlink(missing_ok=True)
    if skipped:
        file.write_text("".join(json.dumps(row) + "\n" for row in skipped))
