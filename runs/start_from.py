"""Start a run from a copy of another run's checkpoint (resume=PATH)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.checkpoint.manifest import first_problem
from engines.checkpoint.store import STATE_FILE, checkpoint_name, replace_state
from runs.environment import known_contents
from runs.files import cut_metrics
from runs.places import Contents
from runs.settings_diff import Change, differences, read_config
from trainers.record import Checkpoint
from trainers.state import TrainState

# Settings on which the lists of a batch number depend.
BATCH_SETTINGS = ("data", "seed", "trainer.batch_size", "trainer.list_size")


def find_source(settings: Mapping[str, Any]) -> Path | None:
    """The checkpoint folder of resume=PATH: PATH itself, or the folder that the text file `latest` or `best` names.
    None for resume=auto and resume=none. Raises ValueError if it is not a complete checkpoint."""
    if settings["resume"] in ("auto", "none"):
        return None
    path = Path(settings["resume"])
    if settings.get("stages"):
        raise ValueError(
            f"resume={path}: a run with stages cannot start from a checkpoint: name the stages to train and the model "
            "to start from, stages=[...] model.name_or_path=RUN/stages/1-NAME/model"
        )
    folder = path.parent / path.read_text().strip() if path.is_file() else path
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"resume={path} is not a checkpoint: expected auto, none or .../checkpoints/step-NNNNNN")
    if problem := first_problem(folder):
        raise ValueError(f"resume={path} is a broken checkpoint: {problem}")
    return folder.resolve()


def changes_since(source: Path, settings: Mapping[str, Any], contents: Contents) -> list[Change] | None:
    """The settings that change the result and differ from those of the run that made the checkpoint `source`. None if
    that run has no config.yaml. Files that settings name are compared by their `contents`."""
    run = source.parent.parent
    if not (run / "config.yaml").is_file():
        return None
    return differences(read_config(run), settings, ["run_name"], (known_contents(run), contents))[0]


def relocate(path: Path, folder: Path, moved_to: Path | None) -> Path:
    """The new path of `path` after `folder`, which may contain it, has been moved."""
    if moved_to is None or not path.is_relative_to(folder.resolve()):
        return path
    return moved_to / path.relative_to(folder.resolve())


def start_from(source: Path, state: TrainState, folder: Path, changes: list[Change] | None) -> Checkpoint:
    """Copy a checkpoint, its state and the metrics up to its step into the new run directory `folder`.

    If no settings have changed, the best checkpoint so far and its metric are kept. If some have, dev or the metric may
    be different, so the new run evaluates its start. Skipped batches stay skipped if their numbers mean the same lists.
    Early stopping counts anew.
    """
    copied = folder / "checkpoints" / source.name
    shutil.copytree(source, copied)
    if changes == []:
        _copy_best(source, folder / "checkpoints", state)
        state = replace(state, evaluations_since_best=0)
    else:
        same_batches = changes is not None and not any(map(_changes_batches, changes))
        state = state.for_changed_settings(same_batches=same_batches)
    replace_state(copied, state.to_dict())
    metrics = source.parent.parent / "metrics.jsonl"
    if metrics.is_file():
        shutil.copy(metrics, folder / "metrics.jsonl")
        cut_metrics(folder / "metrics.jsonl", state, keep_test=False)  # this run measures its own baseline
    return copied, state


def _copy_best(source: Path, checkpoints: Path, state: TrainState) -> None:
    """Copy the best checkpoint that the state names, if it exists, and write the file `best`."""
    best = source.with_name(checkpoint_name(state.best_step or 0))
    if best != source and (best / STATE_FILE).is_file():
        shutil.copytree(best, checkpoints / best.name)
    if (checkpoints / best.name).is_dir():
        (checkpoints / "best").write_text(best.name + "\n")


def _changes_batches(change: Change) -> bool:
    return any(change.key == name or change.key.startswith(f"{name}.") for name in BATCH_SETTINGS)
