"""Prepare a run directory for training, as `runs.resume` has decided. Only rank 0 does this."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from engines.checkpoint.store import clean_up
from engines.distributed.process_group import world_size
from runs.environment import FILE, PLACES, START_STEP, describe_environment
from runs.files import cut_metrics, write_atomic, write_json
from runs.places import Contents
from runs.redaction import redact_tree
from runs.resume import Fresh, Restart, Resume, ResumeStages, StartFrom
from runs.stage_folders import remove_unstarted
from runs.start_from import relocate, start_from
from trainers.record import REFERENCE_FILE, REFRESH_FOLDER, Checkpoint

Preparable = Fresh | StartFrom | Resume | Restart | ResumeStages


def prepare(decision: Preparable, settings: Mapping[str, Any], folder: Path, contents: Contents) -> Checkpoint | None:
    """Act on the decision and print one line about it. Returns the checkpoint to train from, if there is one.

    `contents` is that of the files that settings name."""
    checkpoint = None
    match decision:
        case Fresh():
            make_folder(folder, decision.moved_to, settings)
        case StartFrom():
            make_folder(folder, decision.moved_to, settings)
            checkpoint = copy_source(decision, folder)
        case Resume():
            resume(decision, folder)
            checkpoint = decision.checkpoint
        case Restart():
            restart(decision, folder)
        case ResumeStages():
            resume_stages(decision, folder)
    environment = {} if isinstance(decision, Fresh | StartFrom) else decision.environment
    start_step = decision.source[1].step if isinstance(decision, StartFrom) else environment.get(START_STEP, 0)
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(redact_tree(settings)))))
    write_environment(folder / FILE, environment, contents, 0 if isinstance(decision, Restart) else start_step)
    return checkpoint


def make_folder(folder: Path, moved_to: Path | None, settings: Mapping[str, Any]) -> None:
    """Make a new run directory. An earlier one of the same name is moved first."""
    if moved_to is not None:
        folder.rename(moved_to)
        report(f"moved the earlier {folder} to {moved_to}")
    with explain_write_errors(settings):
        (folder / "checkpoints").mkdir(parents=True)


def copy_source(decision: StartFrom, folder: Path) -> Checkpoint:
    """Copy the checkpoint that the run starts from; it may lie in the folder that was just moved."""
    source, state = decision.source
    source = relocate(source, folder, decision.moved_to)
    checkpoint = start_from(source, state, folder, decision.changes)
    report(f"{folder} starts from {source} (step {checkpoint[1].step})")
    return checkpoint


def resume(decision: Resume, folder: Path) -> None:
    """Cut the run's files back to the checkpoint."""
    state = decision.checkpoint[1]
    clean_up(folder / "checkpoints", decision.checkpoints)
    (folder / "traceback.txt").unlink(missing_ok=True)
    cut_metrics(folder / "metrics.jsonl", state)
    changes = f", {', '.join(decision.changes)}: the same samples, equal up to rounding" if decision.changes else ""
    report(f"resuming {folder} from step {state.step}{changes}")
    wandb_id = folder / "wandb" / "run_id"
    if state.wandb_run_id and not wandb_id.is_file():
        wandb_id.parent.mkdir(exist_ok=True)
        write_atomic(wandb_id, state.wandb_run_id + "\n")


def restart(decision: Restart, folder: Path) -> None:
    """Keep only the test scores of the starting model, or nothing if the run starts from scratch."""
    clean_up(folder / "checkpoints", decision.checkpoints)
    (folder / "traceback.txt").unlink(missing_ok=True)
    if decision.from_scratch:
        for name in ("metrics.jsonl", REFERENCE_FILE):
            (folder / name).unlink(missing_ok=True)
        for name in ("runs", REFRESH_FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
        remove_unstarted(folder)
    cut_metrics(folder / "metrics.jsonl", None)
    report(f"{folder} stopped before its first checkpoint: restarting it")


def resume_stages(decision: ResumeStages, folder: Path) -> None:
    """Remove the stages that have not started. The others are resumed in their own directories."""
    (folder / "traceback.txt").unlink(missing_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # it exists if stages were added to a finished run
    remove_unstarted(folder)
    report(f"{folder} resumes; started stages: {', '.join(decision.started)}")


def write_environment(file: Path, earlier: Mapping[str, Any], contents: Contents, start_step: int) -> None:
    """Write environment.json: a description of this start, or `earlier` with this start added under "resumed".
    `start_step`: that of the checkpoint from which the run started."""
    now = describe_environment(world_size())
    start = {key: now[key] for key in ("time", "command", "world_size", "git")}
    description = {**earlier, "resumed": [*earlier.get("resumed", []), start]} if earlier else now
    write_json(file, {**description, START_STEP: start_step, PLACES: contents})


@contextmanager
def explain_write_errors(settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn an OSError inside into a ValueError that names output_dir. That of a full disk is left unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"output_dir={settings['output_dir']}: {error.filename} cannot be created ({error.strerror}); choose "
            "another folder"
        ) from error


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
