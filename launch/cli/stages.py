"""What the settings of a run with stages mean, told when the configuration is composed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from launch.cli.schema import did_you_mean


def apply_stage_overrides(plain: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The composed tree of a run with stages, without a loss and a trainer of its own: `trainer.KEY` is set in every
    stage whose trainer has that option, unless `stage.NAME.trainer.KEY` is among the keys `given` on the command line.

    Raises ValueError if a stage is named that is not there, or a loss or a trainer chosen that no stage would use.
    Other trees, and what is no stage by its type, are left to `launch.cli.schema`.
    """
    stages, nodes = plain.get("stages"), plain.get("stage")
    if not isinstance(nodes, dict):
        return plain
    if not isinstance(stages, list):
        names = stages if stages in nodes else ",".join(nodes)
        raise ValueError(f"stages={stages!r} is not a list of names: write stages=[{names}]")
    known = [name for name, node in nodes.items() if isinstance(node, dict) and "_target_" in node]
    _check_names(stages, nodes, known)
    if not known:
        return plain
    for key in ("loss", "trainer"):
        if "_target_" in (plain.get(key) or {}):
            raise ValueError(
                f"{key} is chosen in a run with stages, each of which has its own: {key}@stage.{known[0]}.{key}=..., "
                f"or the experiment says `override /{key}: null`"
            )
    if plain.get("loss"):
        key = f"loss.{min(plain['loss'])}"
        raise ValueError(f"{key}: each stage has a loss of its own: set stage.{known[0]}.{key}=...")
    shared = plain.get("trainer") or {}
    trainers = {name: nodes[name].get("trainer") or {} for name in known}
    _check_shared(shared, trainers)
    for name, trainer in trainers.items():
        own = {key for key in trainer if f"stage.{name}.trainer.{key}" in given}
        nodes[name]["trainer"] = trainer | {key: shared[key] for key in shared if key in trainer and key not in own}
    return plain | {"loss": None, "trainer": None}


def _check_names(stages: list[Any], nodes: dict[str, Any], known: list[str]) -> None:
    for key, names in (("stage", nodes), ("stages", stages)):
        for name in names:
            if name not in known:
                place = f"stage.{name}" if key == "stage" else f"stages: {name}"
                raise ValueError(f"{place} is not a stage of this run: {_valid(str(name), known)}")
    if twice := next((name for name in stages if stages.count(name) > 1), None):
        raise ValueError(
            f"stages names {twice} twice: give the second a node of its own, +stage@stage.{twice}_again={twice}"
        )
    if known and not stages:
        raise ValueError(f"stages is empty: name those to train, in their order, such as stages=[{','.join(known)}]")


def _check_shared(shared: dict[str, Any], trainers: dict[str, dict[str, Any]]) -> None:
    options = list(dict.fromkeys(key for trainer in trainers.values() for key in trainer if key != "_target_"))
    for key in shared:
        if key not in options:
            raise ValueError(f"trainer.{key} is not an option of a stage's trainer: {_valid(key, options)}")


def _valid(word: str, valid: Iterable[str]) -> str:
    names = list(valid)
    return f"{did_you_mean(word, names)}valid: {', '.join(names)}" if names else "it has none (+stage@stage.NAME=FILE)"
