"""The length of training as the command line gives it: epochs that are set alone replace the number of steps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def apply_epochs(tree: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Set `max_steps` of every trainer to null whose `max_epochs` the command line sets, unless it sets both. `keys`
    are those of the command line.

    Files give a number of steps for a trainer or an experiment; beside epochs it would end training earlier. Nodes of
    a wrong type are left to `launch.cli.schema`.
    """
    trainers = {"trainer": tree.get("trainer")}
    stages = tree.get("stage")
    if isinstance(stages, dict):
        trainers |= {f"stage.{name}.trainer": (node or {}).get("trainer") for name, node in stages.items()}
    for key, trainer in trainers.items():
        if not isinstance(trainer, dict) or trainer.get("max_epochs") is None:
            continue
        given = {name for name in ("max_epochs", "max_steps") if {f"{key}.{name}", f"trainer.{name}"} & {*keys}}
        if given == {"max_epochs"}:
            trainer["max_steps"] = None
    return tree
