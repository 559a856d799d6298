"""The run directory output_dir/run_name: what a run leaves behind; how it starts, goes on or is found finished."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from engines.checkpoint.manifest import flush
from engines.checkpoint.store import CheckpointStore, Found
from engines.distributed.collectives import all_agree, broadcast_object, gather_objects
from engines.distributed.process_group import is_main, world_size
from runs.environment import describe_environment, is_restart, launch_name
from runs.files import (
    REFERENCE_FILE,
    cut_metrics,
    json_safe,
    read_json,
    write_atomic,
    write_json,
)
from runs.lock import claim
from runs.redaction import redact_tree
from runs.settings_diff import differences, read_config
from runs.stage_folders import StageLines, remove_unstarted, started_settings, started_stages
from runs.start_from import find_checkpoint, relocate, start_from

T = TypeVar("T")


@dataclass
class RunDirectory:
    """One run's folder. Every rank holds one; rank 0 decides and writes, the others' writes do nothing."""

    path: Path
    summary: dict[str, Any] | None = None  # of a finished run
    checkpoint: Found | None = None  # where an unfinished run goes on
    joined: StageLines | None = None  # of a stage: its lines go to the whole run's metrics.jsonl as well

    @classmethod
    def open(cls, settings: Mapping[str, Any], *, neutral: Sequence[str] = ()) -> RunDirectory:
        """The directory of a tree of settings (run_name, output_dir, resume, ...), ready to train in, or finished.

        Call on all ranks.

        resume=auto continues an unfinished run of that name from its newest checkpoint; resume=none moves an existing
        directory aside; resume=PATH starts from a copy of that checkpoint; but where torchrun starts the ranks of one
        launch again, both go on with the directory that it has made. Raises ValueError on every rank where
        run_name or PATH is wrong, or where a setting that changes the result differs from the existing run's (with
        stages: one of a stage that has begun). `neutral` names further settings that may differ.
        """
        settings, folder = after_restart(settings), _folder(settings)
        source, unfinished = _of_main(lambda: _look(settings, folder))
        found = CheckpointStore(folder / "checkpoints").latest() if unfinished else None
        summary, found = _of_main(lambda: _prepare(settings, folder, source, found, neutral))
        if not all_agree(folder.is_dir()):
            raise ValueError(f"{folder}, made by rank 0, is not seen by every rank: put output_dir on a shared disk")
        return cls(folder, summary, found)

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
        """That of the W&B run, where there is one."""
        return self.wandb_id_file.read_text().strip() if self.wandb_id_file.is_file() else None

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: `step` and `split` ("train", "dev" or "test"), then values; NaN becomes null."""
        assert isinstance(metrics["step"], int), "a line of metrics has a step"
        assert metrics["split"] in ("train", "dev", "test"), f"unknown split {metrics['split']!r}"
        if is_main():
            ordered = {"step": metrics["step"], "split": metrics["split"], **metrics}
            with self.metrics_file.open("a") as file:  # closed each time: a crash loses nothing
                file.write(json.dumps(json_safe(ordered), allow_nan=False) + "\n")
            if self.joined is not None:
                self.joined.append(json_safe(ordered))

    def cut_metrics(self, state: Mapping[str, Any]) -> None:
        """Drop the lines past a checkpoint's `state`, to which the run goes back."""
        if is_main():
            cut_metrics(self.metrics_file, state)
            if self.joined is not None:
                self.joined.renew(self.metrics_file)

    def flush_metrics(self) -> None:
        """Wait until metrics.jsonl is on disk: no checkpoint is ahead of it."""
        if is_main() and self.metrics_file.is_file():
            flush(self.metrics_file)

    def describe_data(self, name: str, fingerprint: str) -> None:
        """Record the data's hash. Raises ValueError on every rank where it differs between ranks, or from the hash
        that this run began with."""
        file = self.path / "environment.json"
        if len(set(gather_objects(fingerprint))) > 1:
            raise ValueError(f"data {name} differs between ranks: give all nodes the same files and packages")
        message = None
        if is_main():
            environment = read_json(file)
            data = {"name": name, "fingerprint": fingerprint}
            if environment.get("data", data) != data:
                message = (
                    f"{self.path} was begun with other data ({environment['data']['name']}, fingerprint "
                    f"{environment['data']['fingerprint']}, now {name}, {fingerprint}): choose another run_name, or "
                    "resume=none to move it aside"
                )
            else:
                write_json(file, {**environment, "data": data})
        message = broadcast_object(message)
        if message:
            raise ValueError(message)

    def has_line(self, split: str, step: int) -> bool:
        """Whether metrics.jsonl has a line of that split and step."""
        lines = self.metrics_file.read_text().splitlines() if self.metrics_file.is_file() else []
        return any((line["split"], line["step"]) == (split, step) for line in map(json.loads, lines))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json whole or not at all: from now on the run is finished."""
        self.summary = json_safe(dict(summary))
        if is_main():
            write_json(self.path / "summary.json", self.summary)


def after_restart(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """`settings`, with resume=auto if torchrun or Slurm starts this launch again and it has begun the run.

    Call on all ranks.
    """
    folder = _folder(settings)
    begun = not all_agree(not is_restart()) and _of_main(lambda: _is_of_this_launch(folder))
    return {**settings, "resume": "auto"} if begun else settings


def _of_main(function: Callable[[], T]) -> T:
    """What `function` returns or raises on rank 0, on every rank: they wait for the answer."""
    answer: tuple[Any, Exception | None] = (None, None)
    if is_main():
        try:
            answer = (function(), None)
        except (ValueError, OSError) as error:
            answer = (None, error)
    value, raised = broadcast_object(answer)
    if raised is not None:
        raise raised
    return value


def _look(settings: Mapping[str, Any], folder: Path) -> tuple[Path | None, bool]:
    """Lock the directory. Returns the checkpoint that resume=PATH means, and whether there is a run to go on with, of
    which not a stage but the run itself has checkpoints."""
    resume = settings["resume"]
    source = None if resume in ("auto", "none") else find_checkpoint(Path(resume))
    if source is not None and settings.get("stages"):
        raise ValueError(
            f"resume={resume}: a run with stages starts from no checkpoint: name the stages to train and what "
            "they start from, stages=[...] model.name_or_path=RUN/stages/1-NAME/model"
        )
    with _writable(settings):
        claim(folder)
    begun, finished = (folder / "config.yaml").is_file(), (folder / "summary.json").is_file()
    return source, resume == "auto" and begun and not finished and not started_stages(folder)


def _prepare(
    settings: Mapping[str, Any], folder: Path, source: Path | None, found: Found | None, neutral: Sequence[str]
) -> tuple[dict[str, Any] | None, Found | None]:
    """Make the directory fit to start, on rank 0. Returns the summary of a finished run, or where to go on."""
    settings = dict(redact_tree(settings))
    began: dict[str, Any] = {}
    if settings["resume"] == "auto" and (folder / "config.yaml").is_file():
        finished = (folder / "summary.json").is_file()
        stages = started_stages(folder)
        changed, rounding = differences(
            started_settings(read_config(folder), stages), started_settings(settings, stages), neutral
        )
        if changed and (found is not None or finished or stages):
            raise ValueError(_refusal(folder, changed, stages))
        if finished and len(stages) == len(settings.get("stages") or ()):
            return read_json(folder / "summary.json"), None
        began = {} if changed else _read_environment(folder)
        if stages:
            _go_on_after(folder, stages)
        else:
            _continue(folder, found, rounding, anew=bool(changed))
    else:
        moved = _move_aside(folder)
        with _writable(settings):
            (folder / "checkpoints").mkdir(parents=True)
        if source is not None:
            source = relocate(source, folder, moved)
            found = start_from(source, folder, settings)
            _say(f"{folder} starts from {source} (step {found[1]['step']})")
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
    now = describe_environment(world_size())
    resumed = [*began.get("resumed", []), {key: now[key] for key in ("time", "command", "world_size", "git")}]
    write_json(folder / "environment.json", {**began, "resumed": resumed} if began else now)
    return None, found


def _folder(settings: Mapping[str, Any]) -> Path:
    """output_dir/run_name. Raises ValueError where run_name would lead out of output_dir."""
    name = str(settings["run_name"])
    if not name or name.startswith(".") or len(name) > 200 or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(f"run_name={name!r} is not a folder's name: at most 200 characters, no / or \\, no . in front")
    return Path(settings["output_dir"]) / name


@contextmanager
def _writable(settings: Mapping[str, Any]) -> Iterator[None]:
    """Name the option where the block can make no folder or file. A full disk is told as what it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"output_dir={settings['output_dir']}: {error.filename} cannot be made ({error.strerror}); choose another "
            "folder"
        ) from error


def _refusal(folder: Path, changed: Sequence[str], stages: Sequence[str]) -> str:
    shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
    kept = ", remove the folders below stages/ that are to be trained again" if stages else ""
    return (
        f"{folder} was begun with other settings: {shown}. Repeat them to go on{kept}, choose another run_name, or "
        "resume=none to move it aside"
    )


def _go_on_after(folder: Path, stages: Sequence[str]) -> None:
    """Make a run with begun stages fit to go on: each stage's own directory knows where."""
    (folder / "traceback.txt").unlink(missing_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # stages were added to a finished run
    remove_unstarted(folder)
    _say(f"{folder} goes on: {', '.join(stages)} begun")


def _continue(folder: Path, found: Found | None, rounding: list[str], anew: bool) -> None:
    """Cut the metrics past the newest checkpoint, and say where the run goes on. `anew`: nothing is kept (a run that
    stopped before its first checkpoint, begun with other settings: a mistake that has been corrected)."""
    (folder / "traceback.txt").unlink(missing_ok=True)
    if anew:
        for name in ("metrics.jsonl", REFERENCE_FILE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "runs", ignore_errors=True)
        remove_unstarted(folder)
    cut_metrics(folder / "metrics.jsonl", found[1] if found else None)
    if found is None:
        _say(f"{folder} stopped before its first checkpoint: starting it again")
        return
    state = found[1]
    if len(rounding) > 1 and rounding[0].startswith("engine._target_"):
        rounding = [f"engine {state.get('engine', 'another')} -> {rounding[0].rsplit('.', 1)[1]}"]
    if (ranks := state.get("world_size", world_size())) != world_size():
        rounding = [*rounding, f"ranks {ranks} -> {world_size()}"]
    changes = f", {', '.join(rounding)}: the same samples, equal up to rounding" if rounding else ""
    _say(f"resuming {folder} from step {state['step']}{changes}")
    wandb_id = folder / "wandb" / "run_id"
    if state.get("wandb_run_id") and not wandb_id.is_file():
        wandb_id.parent.mkdir(exist_ok=True)
        write_atomic(wandb_id, state["wandb_run_id"] + "\n")


def _move_aside(folder: Path) -> Path | None:
    if not folder.exists():
        return None
    number = 1
    while (moved := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(moved)
    _say(f"moved the earlier {folder} to {moved}")
    return moved


def _read_environment(folder: Path) -> dict[str, Any]:
    file = folder / "environment.json"
    return read_json(file) if file.is_file() else {}


def _is_of_this_launch(folder: Path) -> bool:
    """Whether the run there was begun by this very launch of torchrun."""
    try:
        begun_by = json.loads((folder / "environment.json").read_text()).get("launch")
    except (OSError, ValueError):
        return False
    return begun_by is not None and begun_by == launch_name()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
