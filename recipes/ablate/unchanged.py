"""Whether the runs in an ablation's folder were trained with the settings that the command gives them now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.ablate.configurations import Configuration
from runs.redaction import redact_tree
from runs.resume import changes_of_run
from runs.settings_diff import texts_of
from runs.stage_folders import started_stages

SHOWN = 5  # settings that are named
_TRAINED = ("summary.json", "checkpoints/step-*", "stages/*/checkpoints/step-*")


@dataclass(frozen=True)
class StoredJob:
    """A job and the folder of its run, which may not exist."""

    configuration: Configuration
    seed: int
    run: Path

    @property
    def has_trained(self) -> bool:
        """Whether its run is finished or has a checkpoint."""
        return any(any(self.run.glob(pattern)) for pattern in _TRAINED)


def check_unchanged(
    folder: Path, jobs: Iterable[StoredJob], tree_of: Callable[[Configuration], Mapping[str, Any]]
) -> None:
    """Raise ValueError, which names what has changed, if runs that are finished or have a checkpoint were trained with
    other settings (their config.yaml) than those that `tree_of` gives their configurations now."""
    trained = [job for job in jobs if job.has_trained]
    changed: dict[StoredJob, list[str]] = {}
    for job in trained:
        if texts := _changes(job, tree_of):
            changed[job] = texts
    if not changed:
        return
    first = next(iter(changed))
    more = f" and {len(changed) - 1} more runs" if len(changed) > 1 else ""
    raise ValueError(
        f"{folder} was started with other settings: {', '.join(changed[first][:SHOWN])} (in "
        f"{first.configuration.name}, seed {first.seed}{more}). Repeat them, choose another run_name, or remove "
        f"{_to_remove(folder, changed, len(changed) == len(trained))}"
    )


def _changes(job: StoredJob, tree_of: Callable[[Configuration], Mapping[str, Any]]) -> list[str]:
    """The settings that differ, in words; none that changes only the rounding, or nothing."""
    if not (job.run / "config.yaml").is_file():
        return ["config.yaml is missing"]
    try:
        tree = tree_of(job.configuration)
    except ValueError as error:
        return [f"its settings are not valid any more ({error})"]
    stages = started_stages(job.run)
    now = redact_tree({**tree, "seed": job.seed, "run_name": job.run.name})  # as in config.yaml
    changes = [texts_of(changes_of_run(job.run, each, {}, stages)[0]) for each in _by_labels(now)]
    return min(changes, key=len)


def _by_labels(tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a run may store of these settings: the labels of its data choose one of two evaluations
    (`recipes.evaluate.choice`)."""
    other = tree.get("eval_of_degrees")
    return (
        [tree] if other is None else [{**tree, "eval": own, "eval_of_degrees": None} for own in (tree["eval"], other)]
    )


def _to_remove(folder: Path, jobs: Iterable[StoredJob], is_all: bool) -> str:
    """The folders of these runs, as a pattern for each configuration."""
    if is_all:
        return str(folder / "runs")
    return " ".join(dict.fromkeys(f"{job.run.with_name(job.run.name.rpartition('-seed')[0])}-seed*" for job in jobs))
