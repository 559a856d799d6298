"""W&B artifacts of a run: what it starts from and what it leaves, so that W&B shows which model came from which.

An artifact of the same name and files is the same version, wherever it is logged. So a run that starts from a model
folder declares the folder's files as its input, and W&B finds the run that made them, online or after `wandb sync`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from data.hashing import stable_hash
from runs.environment import read_environment
from runs.files import write_json

Choice = Literal["none", "model", "checkpoints"]
RECORD = Path("wandb/artifacts.json")  # below a run: {folder: {"name", "type", "project"}}
DATA = Path("wandb/data.json")  # below a run: the hash of its data, which stands for them
MODELS = ("model", "teacher", "guide")  # settings whose name_or_path may be the folder of another run
MAX_NAME = 128  # W&B's limit


def declare_inputs(wandb_run: Any, folder: Path, settings: Mapping[str, Any]) -> None:
    """Declare the data, by their hash, and the models of other runs that this run reads. Their files are hashed."""
    if data := read_environment(folder).get("data"):
        _use_data(wandb_run, folder, data)
    for node in MODELS:
        source = (settings.get(node) or {}).get("name_or_path")
        if source and (recorded := recorded_artifact(Path(source))) and recorded["project"] == wandb_run.project:
            _use(wandb_run, _of_folder(Path(source), recorded["name"], recorded["type"], {}))


def log_outputs(wandb_run: Any, folder: Path, choice: Choice) -> None:
    """Log the model of every stage and of the run, and with `checkpoints` the best and the newest checkpoint. A stage
    starts from the model of the one before, which is declared as its input, as are data of its own."""
    own = [part for part in (wandb_run.group, folder.name) if part]  # jobs of two ablations may have the same name
    recorded = {}
    earlier = None
    for place in _models(folder):
        name = artifact_name("model", *own, *place.parts[1:-1])
        metadata = {"folder": str(place), "started_from": earlier, "data": _use_stage_data(wandb_run, folder, place)}
        artifact = _of_folder(folder / place, name, "model", metadata)
        wandb_run.log_artifact(artifact)
        recorded[str(place)] = {"name": name, "type": "model", "project": wandb_run.project}
        write_json(folder / RECORD, recorded)
        is_stage = len(place.parts) > 1
        if is_stage and earlier is not None:
            previous = _of_folder(folder / earlier, recorded[earlier]["name"], "model", {})
            _use(wandb_run, previous)
        earlier = str(place) if is_stage else None
    if choice == "checkpoints":
        for name, aliases in _checkpoints(folder).items():
            checkpoint = folder / "checkpoints" / name
            artifact = _of_folder(checkpoint, artifact_name("checkpoint", *own), "checkpoint", {"folder": name})
            wandb_run.log_artifact(artifact, aliases=aliases)


def recorded_artifact(model: Path) -> dict[str, str] | None:
    """The artifact of a model folder that a run has logged; None if there is none."""
    model = model.resolve()
    for run in model.parents:
        if (run / RECORD).is_file():
            record: dict[str, dict[str, str]] = json.loads((run / RECORD).read_text())
            return record.get(str(model.relative_to(run)))
    return None


def artifact_name(kind: str, *parts: str) -> str:
    """A name in the characters that W&B allows; the end of a long one is a hash of the whole.

    >>> artifact_name("model", "grpo-loss.beta=0.1", "1-warm")
    'model-grpo-loss.beta-0.1-1-warm'
    """
    name = re.sub(r"[^\w.-]", "-", "-".join((kind, *parts)), flags=re.ASCII)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 17]}-{stable_hash(name):016x}"


def _models(folder: Path) -> Iterator[Path]:
    """The model folders of a run below its own: of its stages, in order, then its own."""
    stages = [path for path in folder.glob("stages/*/model") if path.is_dir()]
    yield from sorted((path.relative_to(folder) for path in stages), key=lambda path: int(path.parts[1].split("-")[0]))
    if (folder / "model").is_dir():
        yield Path("model")


def _checkpoints(folder: Path) -> dict[str, list[str]]:
    """The names of the newest and the best checkpoint, each with its aliases."""
    found: dict[str, list[str]] = {}
    for alias in ("best", "latest"):  # W&B calls the one that is logged last "latest" in any case
        pointer = folder / "checkpoints" / alias
        if pointer.is_file():
            found.setdefault(pointer.read_text().strip(), []).append(alias)
    return found


def _of_folder(folder: Path, name: str, kind: str, metadata: Mapping[str, Any]) -> Any:
    """An artifact of the files of a folder. They are read where they lie, not copied: nobody changes them."""
    import wandb

    artifact = wandb.Artifact(name, kind, metadata=dict(metadata))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):  # `add_dir` prints
        artifact.add_file(os.fspath(file), str(file.relative_to(folder)), policy="immutable", skip_cache=True)
    return artifact


def _use_stage_data(wandb_run: Any, folder: Path, model: Path) -> str | None:
    """Declare the data of the stage that made a model, if they are not the run's. Returns the name of the data."""
    of_run = read_environment(folder).get("data")
    data = read_environment(folder / model.parent).get("data")
    if data and data != of_run:
        _use_data(wandb_run, folder / model.parent, data)
    return data["name"] if data else None


def _use_data(wandb_run: Any, folder: Path, data: Mapping[str, Any]) -> None:
    """Declare data by a file in `folder` that holds their hash."""
    import wandb

    artifact = wandb.Artifact(artifact_name("data", data["name"]), "dataset", metadata=dict(data))
    (folder / DATA).parent.mkdir(exist_ok=True)
    write_json(folder / DATA, data)
    artifact.add_file(os.fspath(folder / DATA), policy="immutable", skip_cache=True)
    _use(wandb_run, artifact)


def _use(wandb_run: Any, artifact: Any) -> None:
    """Declare an artifact as an input of the run."""
    if wandb_run.offline:
        # `use_artifact` refuses to work offline, because it waits for the server. This is what it does before it waits.
        wandb_run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        wandb_run.use_artifact(artifact)
