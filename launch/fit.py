"""Which losses fit a data set: what they require of it against what its training lists give."""

from __future__ import annotations

from collections.abc import Collection as Names
from pathlib import Path
from typing import Any

import yaml

from launch.compose import CONF, compose, instantiate
from launch.schema import Schema, locate
from losses.contracts import REQUIREMENTS, compares_embeddings, requirements


def check_fit(loss: Any, provides: Names[str], name: str, *, embeddings: bool = True) -> None:
    """Raise ValueError where `loss` needs what data set `name` lacks; it names the losses that fit, without those that
    compare `embeddings` where the model has none."""
    missing = lacking(loss, provides)
    if missing:
        raise ValueError(
            f"loss {type(loss).__name__} does not fit data {name}, whose training lists lack "
            f"{' and '.join(f'{need} ({REQUIREMENTS[need]})' for need in missing)}; losses that fit: "
            f"{', '.join(fitting_losses(provides, embeddings=embeddings)) or 'none'}"
        )


def fitting_losses(provides: Names[str], *, embeddings: bool = True) -> list[str]:
    """The names, under conf/loss, of the losses whose requirements are met."""
    return [
        name
        for name, loss in configured_losses().items()
        if not lacking(loss, provides) and (embeddings or not compares_embeddings(loss))
    ]


def lacking(loss: Any, provides: Names[str]) -> list[str]:
    """What `loss` requires and the data does not give, names of REQUIREMENTS."""
    required = requirements(loss)
    return [need for need in REQUIREMENTS if need in required and need not in provides]


def configured_losses() -> dict[str, Any]:
    """Every loss of conf/loss by name, with the options of its file."""
    return {path.stem: _loss(path) for path in sorted((CONF / "loss").glob("*.yaml"))}


def _loss(file: Path) -> Any:
    """Hydra composes only a file that is made of others: it is slow."""
    node = yaml.safe_load(file.read_text())
    if "defaults" in node:
        return instantiate(compose([f"loss={file.stem}"]).loss)
    return Schema(node, construct=True).node(node, locate(node["_target_"], "loss"), "loss")
