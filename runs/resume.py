"""Decide how a run directory is opened. Nothing is changed on disk; `runs.prepare` acts on the decision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engines.checkpoint.store import CheckpointScan, read_state, scan_checkpoints
from engines.distributed.collectives import all_agree, broadcast_object
from engines.distributed.nodes import ranks_per_node
from engines.distributed.process_group import is_main, world_size
from runs.environment import is_restart, known_contents, launch_name, read_environment
from runs.files import read_json
from runs.places import Contents
from runs.redaction import redact_tree
from runs.settings_diff import Change, differences, read_config, texts_of
from runs.stage_folders import started_settings, started_stages
from runs.start_from import changes_since
from trainers.record import Checkpoint
from trainers.state import TrainState

T = TypeVar("T")
NO_CONTENTS: Contents = {}


@dataclass(frozen=True)
class Fresh:
    """A new run. An earlier folder of its name is moved to `moved_to` first."""

    moved_to: Path | None


@dataclass(frozen=True)
class StartFrom:
    """A new run that starts from a copy of a checkpoint. `changes`: the settings that differ from those of the
    checkpoint's run; None: that run's settings are not known."""

    source: Checkpoint
    changes: list[Change] | None
    moved_to: Path | None


@dataclass(frozen=True)
class Resume:
    """The run resumes from its newest complete checkpoint. `changes`: the settings that differ; they only change
    rounding."""

    checkpoint: Checkpoint
    changes: list[str]
    checkpoints: CheckpointScan
    environment: dict[str, Any]  # the content of environment.json, to which this start is added


@dataclass(frozen=True)
class Restart:
    """The run stopped before its first checkpoint and starts again. If settings have changed (the user corrected a
    mistake), it starts `from_scratch` and nothing is kept."""

    from_scratch: bool
    checkpoints: CheckpointScan
    environment: dict[str, Any]


@dataclass(frozen=True)
class ResumeStages:
    """The run has started some of its stages. Each is resumed or finished in its own directory."""

    started: list[str]
    environment: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """The run is finished: its results are printed."""

    summary: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """The run cannot be opened with these settings; nothing has been changed."""

    message: str


Decision = Fresh | StartFrom | Resume | Restart | ResumeStages | Finished | Refused


def decide(
    settings: Mapping[str, Any],
    folder: Path,
    source: Path | None = None,
    may_differ: Sequence[str] = (),
    contents: Contents = NO_CONTENTS,
) -> Decision:
    """Decide how to open the run directory `folder`, which this process has locked. Nothing is changed on disk.

    Call it on all ranks: each reads a part of the checkpoints, rank 0 reads the rest, and all get the same decision.
    `source` is the checkpoint of resume=PATH. `may_differ` names further settings that may differ, `contents` is that
    of the files that settings name.
    """
    settings = dict(redact_tree(settings))  # as in config.yaml
    try:
        existing = on_main(lambda: _find_existing(settings, folder))
        if existing is None:
            return on_main(lambda: _decide_new(settings, folder, source, contents))
        checkpoints = scan_checkpoints(folder / "checkpoints") if existing.may_have_checkpoints else CheckpointScan()
        return on_main(lambda: _decide_existing(settings, folder, existing, checkpoints, may_differ, contents))
    except ValueError as error:  # a broken file: the message names it and the remedy
        return Refused(str(error))


@dataclass(frozen=True)
class _Existing:
    """The existing run: whether it is finished, and which of its stages have started."""

    finished: bool
    stages: list[str]

    @property
    def may_have_checkpoints(self) -> bool:
        return not self.finished and not self.stages


def _find_existing(settings: Mapping[str, Any], folder: Path) -> _Existing | None:
    """The run that these settings resume; None if they start a new one."""
    if settings["resume"] != "auto" or not (folder / "config.yaml").is_file():
        return None
    return _Existing((folder / "summary.json").is_file(), started_stages(folder))


def _decide_new(settings: Mapping[str, Any], folder: Path, source: Path | None, contents: Contents) -> Decision:
    moved_to = _free_name(folder) if folder.exists() else None
    if source is None:
        return Fresh(moved_to)
    checkpoint = (source, TrainState.from_dict(read_state(source)))
    steps = settings.get("trainer", {}).get("max_steps")  # None: as many as `max_epochs` gives, see `check_steps_left`
    if steps is not None and (step := checkpoint[1].step) >= steps:
        return Refused(
            f"resume={settings['resume']}: the checkpoint is at step {step}, and trainer.max_steps={steps} counts "
            f"those steps too, so nothing would be trained: set it above {step}"
        )
    return StartFrom(checkpoint, changes_since(source, settings, contents), moved_to)


def _decide_existing(
    settings: Mapping[str, Any],
    folder: Path,
    existing: _Existing,
    checkpoints: CheckpointScan,
    may_differ: Sequence[str],
    contents: Contents,
) -> Decision:
    stages, newest = existing.stages, checkpoints.newest
    changed, rounding = changes_of_run(folder, settings, contents, stages, may_differ)
    if changed and (newest or existing.finished or stages):
        latest = newest[0] if newest else folder / "checkpoints" / "latest"
        may_start = not stages and not settings.get("stages") and latest.exists()
        by_epochs = (settings.get("trainer") or {}).get("max_epochs") is not None
        return Refused(refusal(folder, changed, latest if may_start else None, stages, by_epochs=by_epochs))
    if existing.finished and len(stages) == len(settings.get("stages") or ()):
        return Finished(read_json(folder / "summary.json"))
    if changed:
        return Restart(True, checkpoints, {})
    environment = read_environment(folder)
    if stages:
        return ResumeStages(stages, environment)
    if newest is None:
        return Restart(False, checkpoints, environment)
    state = TrainState.from_dict(newest[1])
    if (reason := _other_negatives((settings.get("trainer") or {}).get("negatives", "global"), state)) is not None:
        return Refused(f"{folder} {reason}")
    return Resume((newest[0], state), _rounding_changes(rounding, state), checkpoints, environment)


def _other_negatives(negatives: str, state: TrainState) -> str | None:
    """Why the queries of a run with such `negatives` would be compared with other lists than before; None: they are
    not."""
    if negatives != "global" and state.world_size not in (None, world_size()):
        ranks = f"{state.world_size} rank(s)"
    elif negatives == "node" and state.ranks_per_node not in (None, ranks_per_node()):
        ranks = f"{state.ranks_per_node} rank(s) a node"
    else:
        return None
    return (
        f"was trained on {ranks} with trainer.negatives={negatives}, so the ranks say what a query is compared with: "
        "resume it on as many, or choose another run_name"
    )


def changes_of_run(
    folder: Path,
    settings: Mapping[str, Any],
    contents: Contents,
    stages: Sequence[str] = (),
    may_differ: Sequence[str] = (),
) -> tuple[list[Change], list[Change]]:
    """How `settings` and `contents` differ from those that the run in `folder` was started with: the changes of the
    result, and those of its rounding alone. Of a run with stages, those of the started `stages` are compared."""
    earlier = started_settings(read_config(folder), stages)
    now = started_settings(settings, stages)
    return differences(earlier, now, may_differ, (known_contents(folder), contents))


def _rounding_changes(rounding: Sequence[Change], state: TrainState) -> list[str]:
    """Describe briefly what changes the rounding of a resumed run."""
    texts = texts_of(rounding)
    if any(change.key == "engine._target_" for change in rounding):
        texts = [f"engine {state.engine or 'another'} -> {texts[0].rpartition(' ')[2]}"]
    if state.world_size not in (None, world_size()):
        texts.append(f"ranks {state.world_size} -> {world_size()}")
    return texts


def refusal(
    folder: Path,
    changed: Sequence[Change],
    checkpoint: Path | None,
    stages: Sequence[str] = (),
    *,
    by_epochs: bool = False,
) -> str:
    """The message of a run that is not resumed because of these changes. `checkpoint`: one from which a run of
    another name can train on. `by_epochs`: its length is set by `trainer.max_epochs`."""
    texts = texts_of(changed)
    shown = ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
    kept = ", remove the folders below stages/ that are to be trained again" if stages else ""
    longer = ""
    if checkpoint is not None:
        name = checkpoint.read_text().strip() if checkpoint.is_file() else checkpoint.name  # `latest` names a folder
        step = name.removeprefix("step-").lstrip("0") or "0"
        length = f"trainer.max_steps, which counts those steps too, above {step}"
        if by_epochs:
            length = "trainer.max_epochs, which counts the epochs before it too, above those"
        longer = (
            f" (with resume={checkpoint} it trains on from step {step}, longer or with other settings: set {length})"
        )
    contents, settings = any(c.is_content for c in changed), any(not c.is_content for c in changed)
    other = " and ".join(["settings"] * settings + ["files"] * contents)
    repeat = " and ".join(["repeat them"] * settings + ["restore the files"] * contents).capitalize()
    return (
        f"{folder} was started with other {other}: {shown}. {repeat} to resume it{kept}, choose another "
        f"run_name{longer}, or resume=none to move it aside"
    )


def _free_name(folder: Path) -> Path:
    number = 1
    while (free := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return free


def after_restart(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """`settings`, with resume=auto if torchrun or Slurm has restarted this launch and the launch has started the run.

    Call it on all ranks.
    """
    folder = run_folder(settings)
    is_started = not all_agree(not is_restart()) and on_main(lambda: _is_of_this_launch(folder))
    return {**settings, "resume": "auto"} if is_started else settings


def _is_of_this_launch(folder: Path) -> bool:
    """Whether this launch of torchrun has started the run."""
    try:
        started_by = json.loads((folder / "environment.json").read_text()).get("launch")
    except (OSError, ValueError):
        return False
    return started_by is not None and started_by == launch_name()


def run_folder(settings: Mapping[str, Any]) -> Path:
    """The folder output_dir/run_name. Raises ValueError if run_name is not the name of a folder, or a file is there."""
    name = str(settings["run_name"])
    if not name or name.startswith(".") or len(name) > 200 or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(
            f"run_name={name!r} is not a valid folder name: at most 200 characters, no / or \\, no . in front"
        )
    folder = Path(settings["output_dir"]) / name
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if there is not None and not there.is_dir():
        why = "cannot be created (a file is there); choose another folder"
        raise ValueError(f"output_dir={settings['output_dir']}: {there} {why}")
    return folder


def on_main(function: Callable[[], T]) -> T:
    """Call `function` on rank 0. Every rank waits for it, and returns or raises the same."""
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
