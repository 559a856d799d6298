"""Checks of a loss's options, called from `__post_init__`. Each raises ValueError with the option's name and value."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the choices, if the value is not among them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known; choose one of: {', '.join(choices)}")


def check_finite(name: str, value: float) -> None:
    """Raise ValueError if a number is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise ValueError if a number is below its minimum, or not finite."""
    check_finite(name, value)
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError if a number is not above 0, or not finite."""
    check_finite(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def check_pos_weight(pos_weight: float | str | None) -> None:
    """Raise ValueError if `pos_weight` is neither a positive number, "auto" nor None."""
    if isinstance(pos_weight, str):
        if pos_weight != "auto":
            raise ValueError(f"pos_weight={pos_weight!r} is not known; choose a number, auto or null (1)")
    elif pos_weight is not None:
        check_positive("pos_weight", pos_weight)
