"""The losses that the configuration offers, and which of them fit a data set."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from launch.cli.compose import compose, instantiate
from launch.cli.schema import Schema, locate
from losses.contracts import OUTPUTS, MissingRequirements, missing_requirements, required_outputs
from runs.source_tree import CONF


@contextmanager
def naming_losses_that_fit() -> Iterator[None]:
    """Add the losses that do fit to the error that one does not."""
    try:
        yield
    except MissingRequirements as error:
        fitting = ", ".join(fitting_losses(error.available, outputs=error.outputs))
        raise ValueError(f"{error}; losses that fit: {fitting or 'none'}") from error


def fitting_losses(available: Names[str], *, outputs: Names[str] = tuple(OUTPUTS)) -> list[str]:
    """The names, under conf/loss, of the losses whose requirements are met by data that give `available` and a model
    that gives `outputs`."""
    return [
        name
        for name, loss in configured_losses().items()
        if not missing_requirements(loss, available) and required_outputs(loss) <= set(outputs)
    ]


def configured_losses() -> dict[str, Any]:
    """Every loss of conf/loss by name, with the options of its file."""
    return {path.stem: _loss(path) for path in sorted((CONF / "loss").glob("*.yaml"))}


def _loss(file: Path) -> Any:
    """Hydra composes only a file that is made of others: it is slow."""
    node = yaml.safe_load(file.read_text())
    if "defaults" in node:
        loss = compose([f"loss={file.stem}"])["loss"]
        return instantiate(loss)
    return Schema(node, construct=True).node(node, locate(node["_target_"], "loss"), "loss")
