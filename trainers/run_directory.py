"""The run directory output_dir/run_name: what a run leaves behind; how it starts, goes on or is found finished."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from engines.checkpoints import STATE_FILE, CheckpointStore
from engines.collectives import all_agree, broadcast_object, gather_objects
from engines.process_group import is_main, world_size
from trainers.environment import describe_environment

# Settings that may differ when a run is resumed: they change what is kept, shown or held in memory, not the result.
NEUTRAL = (
    "resume",
    "output_dir",
    "push_to_hub",
    "logger.*",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.keep_checkpoints",
    "trainer.kept_chunks",
    "trainer.workers",
    "model.gradient_checkpointing",
    "data.cache_dir",
    "eval.token_budget",
)


@dataclass
class RunDirectory:
    """One run's folder. Every rank holds one; rank 0 decides and writes, the others' writes do nothing."""

    path: Path
    summary: dict[str, Any] | None = None  # of a finished run

    @classmethod
    def open(cls, config: DictConfig) -> RunDirectory:
        """The directory of `config` (run_name, output_dir, resume), ready to train in, or finished. Call on all ranks.

        resume=auto continues an unfinished run of that name from its newest checkpoint; resume=none moves an existing
        directory aside; resume=PATH starts from a copy of that checkpoint. Raises ValueError on every rank where
        run_name or PATH is wrong, or where a setting that changes the result differs from the existing run's.
        """
        answer: tuple[str, Any] | None = None
        if is_main():
            try:
                answer = ("summary", _prepare(config))
            except (ValueError, OSError) as error:
                answer = ("error", error)  # every rank must learn of it: they wait for the answer
        kind, value = broadcast_object(answer)  # type: ignore[misc]
        if kind == "error":
            raise value
        folder = _folder(config)
        if not all_agree(folder.is_dir()):
            raise ValueError(f"{folder}, made by rank 0, is not seen by every rank: put output_dir on a shared disk")
        return cls(folder, value)

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

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: `step` and `split` ("train", "dev" or "test"), then values; NaN becomes null."""
        assert isinstance(metrics["step"], int), "a line of metrics has a step"
        assert metrics["split"] in ("train", "dev", "test"), f"unknown split {metrics['split']!r}"
        if is_main():
            ordered = {"step": metrics["step"], "split": metrics["split"], **metrics}
            with self.metrics_file.open("a") as file:  # closed each time: a crash loses nothing
                file.write(json.dumps(json_safe(ordered), allow_nan=False) + "\n")

    def describe_data(self, name: str, fingerprint: str) -> None:
        """Record the data's hash. Raises ValueError on every rank where it differs between ranks, or from the hash
        that this run began with."""
        file = self.path / "environment.json"
        if len(set(gather_objects(fingerprint))) > 1:
            raise ValueError(f"data {name} differs between ranks: give all nodes the same files and packages")
        message = None
        if is_main():
            environment = json.loads(file.read_text())
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


def _prepare(config: DictConfig) -> dict[str, Any] | None:
    """Make the directory fit to start, on rank 0. Returns the summary of a finished run."""
    folder = _folder(config)
    settings = OmegaConf.to_container(config, resolve=True)
    began: dict[str, Any] = {}
    if config.resume == "auto" and (folder / "config.yaml").is_file():
        step, finished = _newest_step(folder), (folder / "summary.json").is_file()
        changed = differences(_read_config(folder), settings)
        if changed and (step is not None or finished):
            shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            raise ValueError(
                f"{folder} was begun with other settings: {shown}. Repeat them to go on, choose another run_name, or "
                "resume=none to move it aside"
            )
        if finished:
            return json.loads((folder / "summary.json").read_text())
        began = {} if changed else _read_environment(folder)
        _continue(folder, step, anew=bool(changed))
    else:
        checkpoint = None if config.resume in ("auto", "none") else _find_checkpoint(Path(config.resume))
        moved = _move_aside(folder)
        (folder / "checkpoints").mkdir(parents=True)
        if checkpoint is not None:
            _start_from(_relocate(checkpoint, folder, moved), folder)
    OmegaConf.save(OmegaConf.create(settings), folder / "config.yaml")
    now = describe_environment(world_size())
    resumed = [*began.get("resumed", []), {key: now[key] for key in ("time", "command", "world_size", "git")}]
    write_json(folder / "environment.json", {**began, "resumed": resumed} if began else now)
    return None


def _folder(config: DictConfig) -> Path:
    """output_dir/run_name. Raises ValueError where run_name would lead out of output_dir."""
    name = str(config.run_name)
    if not name or name.startswith(".") or len(name) > 200 or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(f"run_name={name!r} is not a folder's name: at most 200 characters, no / or \\, no . in front")
    return Path(config.output_dir) / name


def differences(old: Any, new: Any) -> list[str]:
    """The settings that change the result and differ, as "key old -> new"."""
    old, new = flatten(old), flatten(new)
    return [
        f"{key} {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in {**old, **new}
        if old.get(key, _ABSENT) != new.get(key, _ABSENT) and not any(fnmatch(key, pattern) for pattern in NEUTRAL)
    ]


_ABSENT = object()


def _newest_step(folder: Path) -> int | None:
    found = CheckpointStore(folder / "checkpoints").newest()
    return found[1]["step"] if found else None


def _continue(folder: Path, step: int | None, anew: bool) -> None:
    """Cut the metrics past the newest checkpoint, and say where the run goes on. `anew`: nothing is kept (a run that
    stopped before its first checkpoint, begun with other settings: a mistake that has been corrected)."""
    (folder / "traceback.txt").unlink(missing_ok=True)
    if anew:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        shutil.rmtree(folder / "runs", ignore_errors=True)
    cut_metrics(folder / "metrics.jsonl", step)
    if step is None:
        _say(f"{folder} stopped before its first checkpoint: starting it again")
    else:
        _say(f"resuming {folder} from step {step}")


def cut_metrics(file: Path, step: int | None, *, keep_test: bool = True) -> None:
    """Drop the lines past `step` (all, if None): they are written again. Test is scored at step 0 before anything else,
    and stays with `keep_test`; what was scored after training is scored again."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was killed
        before_training = keep_test and record["step"] == 0
        if before_training if record["split"] == "test" else record["step"] <= (-1 if step is None else step):
            kept.append(line + "\n")
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text("".join(kept))
    unfinished.replace(file)


def _find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that resume=PATH means: the folder, or the text files `latest` and `best` beside it."""
    folder = path.parent / path.read_text().strip() if path.is_file() else path
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"resume={path} is not a checkpoint: expected auto, none or .../checkpoints/step-NNNNNN")
    return folder.resolve()


def _move_aside(folder: Path) -> Path | None:
    if not folder.exists():
        return None
    number = 1
    while (moved := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(moved)
    _say(f"moved the earlier {folder} to {moved}")
    return moved


def _relocate(path: Path, folder: Path, moved: Path | None) -> Path:
    """`path`, where the folder it may lie in has just been moved."""
    inside = moved is not None and path.is_relative_to(folder.resolve())
    return moved / path.relative_to(folder.resolve()) if moved is not None and inside else path


def _start_from(checkpoint: Path, folder: Path) -> None:
    """Copy the checkpoint, the best one until then and the metrics until then into the new `folder`."""
    state = json.loads((checkpoint / STATE_FILE).read_text())
    best = checkpoint.with_name(f"step-{state.get('best_step') or 0:06d}")
    for source in {checkpoint, best}:
        if (source / STATE_FILE).is_file():
            shutil.copytree(source, folder / "checkpoints" / source.name)
    if (folder / "checkpoints" / best.name).is_dir():
        (folder / "checkpoints" / "best").write_text(best.name + "\n")
    metrics = checkpoint.parent.parent / "metrics.jsonl"
    if metrics.is_file():
        shutil.copy(metrics, folder / "metrics.jsonl")
        cut_metrics(folder / "metrics.jsonl", state["step"], keep_test=False)  # this run scores its own start
    _say(f"{folder} starts from {checkpoint} (step {state['step']})")


def _read_config(folder: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / 'config.yaml'} is broken ({reason}): start afresh with resume=none") from None


def _read_environment(folder: Path) -> dict[str, Any]:
    file = folder / "environment.json"
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is broken ({error}): remove it, or start afresh with resume=none") from None


def flatten(node: Any, key: str = "") -> dict[str, Any]:
    """The leaves of a tree of mappings by dotted key; lists are leaves."""
    if not isinstance(node, Mapping) or not node:
        return {key: node}
    return {
        name: leaf
        for child, value in node.items()
        for name, leaf in flatten(value, f"{key}.{child}".lstrip(".")).items()
    }


def json_safe(value: Any) -> Any:
    """`value` in JSON types: tensors' and numpy's scalars as numbers, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: Path, content: Any) -> None:
    """Write whole or not at all."""
    unfinished = file.with_name(f".{file.name}")
    with unfinished.open("w") as stream:
        stream.write(json.dumps(json_safe(content), indent=2, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
