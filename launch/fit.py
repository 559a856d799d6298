"""Which losses fit a data set: what they require of it against what its training lists give."""

from __future__ import annotations

from collections.abc import Collection as Names
from typing import Any

from launch.compose import CONF, compose, instantiate
from losses.contracts import REQUIREMENTS, requirements


def check_fit(loss: Any, provides: Names[str], name: str) -> None:
    """Raise ValueError where `loss` needs what data set `name` lacks; it names the losses that fit."""
    missing = [REQUIREMENTS[need] for need in REQUIREMENTS if need in requirements(loss) and need not in provides]
    if missing:
        raise ValueError(
            f"loss {type(loss).__name__} does not fit data {name}, which lacks {' and '.join(missing)}; losses that fit: "
            f"{', '.join(fitting_losses(provides)) or 'none'}"
        )


def fitting_losses(provides: Names[str]) -> list[str]:
    """The names, under conf/loss, of the losses whose requirements are met."""
    names = sorted(str(path.relative_to(CONF / "loss").with_suffix("")) for path in (CONF / "loss").rglob("*.yaml"))
    return [name for name in names if requirements(instantiate(compose([f"loss={name}"]).loss)) <= set(provides)]
