"""The losses in conf/loss, and which of them fit a data set and a model."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from launch.cli.compose import compose, instantiate
from launch.cli.schema import Schema, locate
from losses.contracts import OUTPUTS, MissingRequirements, missing_requirements, required_outputs
from runs.source_tree import CONF


@contextmanager
def suggest_fitting_losses() -> Iterator[None]:
    """Add the losses that fit to the error message if the chosen loss does not."""
    try:
        yield
    except MissingRequirements as error:
        fitting = ", ".join(fitting_losses(error.available, outputs=error.outputs))
        raise ValueError(f"{error}; losses that fit: {fitting or 'none'}") from error


def fitting_losses(available: Names[str], *, outputs: Names[str] = tuple(OUTPUTS)) -> list[str]:
    """The names of the losses in conf/loss whose requirements are met by data that give `available` and by a model with
    these `outputs`."""
    return [
        name
        for name, loss in configured_losses().items()
        if not missing_requirements(loss, available) and required_outputs(loss) <= set(outputs)
    ]


@cache  # composing takes seconds
def configured_losses() -> Mapping[str, Any]:
    """All losses of conf/loss by name, with the options in their files."""
    return {path.stem: _loss(path) for path in sorted((CONF / "loss").glob("*.yaml"))}


def _loss(file: Path) -> Any:
    """Build the loss of one file. Hydra, which is slow, is only used for a file with a defaults list."""
    node = yaml.safe_load(file.read_text())
    if "defaults" in node:
        loss = compose([f"loss={file.stem}"])["loss"]
        return instantiate(loss)
    return Schema(node, construct=True).convert_node(node, locate(node["_target_"], "loss"), "loss")
