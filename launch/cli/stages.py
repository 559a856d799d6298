"""Apply the command line's settings to the stages of a run, while the configuration is composed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from launch.cli.schema import suggest_name


def apply_stage_overrides(tree: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Move `trainer.KEY` of a run with stages into every stage whose trainer has that option, unless the command line
    has set `stage.NAME.trainer.KEY`. `keys` are those of the command line. The run's own loss and trainer become None.

    Raises ValueError if a stage does not exist, or if a loss or trainer is chosen that no stage would use. A tree
    without stages is returned unchanged; nodes of a wrong type are left to `launch.cli.schema`.
    """
    stages, nodes = tree.get("stages"), tree.get("stage")
    if not isinstance(nodes, dict):
        return tree
    if not isinstance(stages, list):
        names = stages if stages in nodes else ",".join(nodes)
        raise ValueError(f"stages={stages!r} is not a list of names: write stages=[{names}]")
    defined = [name for name, node in nodes.items() if isinstance(node, dict) and "_target_" in node]
    _check_names(stages, nodes, defined)
    if not defined:
        return tree
    for key in ("loss", "trainer"):
        if "_target_" in (tree.get(key) or {}):
            raise ValueError(
                f"{key} is chosen, but each stage of this run has its own: {key}@stage.{defined[0]}.{key}=..., "
                f"or write `override /{key}: null` in the experiment"
            )
    if tree.get("loss"):
        key = f"loss.{min(tree['loss'])}"
        raise ValueError(f"{key}: each stage has its own loss: set stage.{defined[0]}.{key}=...")
    shared = tree.get("trainer") or {}
    trainers = {name: nodes[name].get("trainer") or {} for name in defined}
    _check_shared(shared, trainers)
    for name, trainer in trainers.items():
        own = {key for key in trainer if f"stage.{name}.trainer.{key}" in keys}
        nodes[name]["trainer"] = trainer | {key: shared[key] for key in shared if key in trainer and key not in own}
    return tree | {"loss": None, "trainer": None}


def _check_names(stages: list[Any], nodes: dict[str, Any], defined: list[str]) -> None:
    for key, names in (("stage", nodes), ("stages", stages)):
        for name in names:
            if name not in defined:
                place = f"stage.{name}" if key == "stage" else f"stages: {name}"
                raise ValueError(f"{place} is not a stage of this run: {_valid_names(str(name), defined)}")
    if twice := next((name for name in stages if stages.count(name) > 1), None):
        raise ValueError(
            f"stages names {twice} twice: give the second one its own node, +stage@stage.{twice}_again={twice}"
        )
    if defined and not stages:
        raise ValueError(
            f"stages is empty: name the stages to train in their order, such as stages=[{','.join(defined)}]"
        )


def _check_shared(shared: dict[str, Any], trainers: dict[str, dict[str, Any]]) -> None:
    options = list(dict.fromkeys(key for trainer in trainers.values() for key in trainer if key != "_target_"))
    for key in shared:
        if key not in options:
            raise ValueError(f"trainer.{key} is not an option of a stage's trainer: {_valid_names(key, options)}")


def _valid_names(word: str, valid: Iterable[str]) -> str:
    names = list(valid)
    return f"{suggest_name(word, names)}valid: {', '.join(names)}" if names else "it has none (+stage@stage.NAME=FILE)"
