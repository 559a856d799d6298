"""resume=PATH: a run that starts from a copy of another run's checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engines.checkpoint.manifest import first_problem
from engines.checkpoint.store import STATE_FILE, Found, read_state, replace_state
from runs.files import cut_metrics
from runs.settings_diff import differences, read_config

# Settings that decide which lists the number of a batch stands for.
BATCHES = ("data.", "seed ", "trainer.batch_size ", "trainer.list_size ")


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that resume=PATH means: the folder, or the text files `latest` and `best` beside it."""
    folder = path.parent / path.read_text().strip() if path.is_file() else path
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"resume={path} is not a checkpoint: expected auto, none or .../checkpoints/step-NNNNNN")
    if problem := first_problem(folder):
        raise ValueError(f"resume={path} is a broken checkpoint: {problem}")
    return folder.resolve()


def relocate(path: Path, folder: Path, moved: Path | None) -> Path:
    """`path`, where the folder it may lie in has just been moved."""
    inside = moved is not None and path.is_relative_to(folder.resolve())
    return moved / path.relative_to(folder.resolve()) if moved is not None and inside else path


def start_from(checkpoint: Path, folder: Path, settings: Any) -> Found:
    """Copy the checkpoint and the metrics until then into the new `folder`.

    The best checkpoint until then and its metric stay the mark to beat if the run that they are of has these
    `settings`; else dev, or what is measured of it, may be another: the new run measures its start. Batches that were
    left out stay so where their numbers stand for the same lists."""
    state, copied = read_state(checkpoint), folder / "checkpoints" / checkpoint.name
    shutil.copytree(checkpoint, copied)
    changed = _changes(checkpoint.parent.parent, settings)
    if changed == []:
        best = checkpoint.with_name(f"step-{state.get('best_step') or 0:06d}")
        if best != checkpoint and (best / STATE_FILE).is_file():
            shutil.copytree(best, folder / "checkpoints" / best.name)
        if (folder / "checkpoints" / best.name).is_dir():
            (folder / "checkpoints" / "best").write_text(best.name + "\n")
    else:
        state |= {"best_metric": None, "best_step": None, "pending_evaluation": True}
        if changed is None or any(line.startswith(BATCHES) for line in changed):
            state["skipped_batches"] = []
        replace_state(copied, state)
    metrics = checkpoint.parent.parent / "metrics.jsonl"
    if metrics.is_file():
        shutil.copy(metrics, folder / "metrics.jsonl")
        cut_metrics(folder / "metrics.jsonl", state, keep_test=False)  # this run scores its own start
    return copied, state


def _changes(run: Path, settings: Any) -> list[str] | None:
    """The settings that differ from those of the run in that folder and change its result; None: it has none."""
    config = run / "config.yaml"
    return differences(read_config(run), settings, ["run_name"])[0] if config.is_file() else None
