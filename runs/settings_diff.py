"""How the settings that a run was started with differ from those that it is to resume with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainers.options import RESUME_SAFE_OPTIONS

# Settings that may differ when a run is resumed: they change what is kept, shown or held in memory, not the result.
RESUME_SAFE = (
    "resume",
    "timeout_s",
    "output_dir",
    "push_to_hub",
    "adapter_only",
    "logger.*",
    *(f"trainer.{option}" for option in RESUME_SAFE_OPTIONS),
    "model.gradient_checkpointing",
    "data.cache_dir",
    "eval.token_budget",
)
_ABSENT = object()


def differences(old: Any, new: Any, neutral: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The settings that differ, as "key old -> new": those that change the result, and those that change its rounding
    alone. Left out are those in RESUME_SAFE or in `neutral`, in the run or in one of its stages."""
    old, new = flatten(old), flatten(new)
    changed = [
        key
        for key in {**old, **new}
        if old.get(key, _ABSENT) != new.get(key, _ABSENT) and not _matches(key, (*RESUME_SAFE, *neutral))
    ]
    shown = {key: f"{key} {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in changed}
    return (
        [line for key, line in shown.items() if not _changes_rounding_alone(key)],
        [line for key, line in shown.items() if _changes_rounding_alone(key)],
    )


def flatten(node: Any, key: str = "") -> dict[str, Any]:
    """The leaves of a tree of mappings, by dotted key; lists are leaves."""
    if not isinstance(node, Mapping) or not node:
        return {key: node}
    return {
        name: leaf
        for child, value in node.items()
        for name, leaf in flatten(value, f"{key}.{child}".lstrip(".")).items()
    }


def read_config(folder: Path) -> Any:
    """The content of config.yaml. Raises ValueError if it is broken."""
    try:
        return OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        file, reason = folder / "config.yaml", " ".join(str(error).split())
        raise ValueError(f"{file} is broken ({reason}): start from scratch with resume=none") from None


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    plain = re.sub(r"^stage\.[^.]+\.", "", key)  # a setting of a stage counts like that of a run without stages
    return any(fnmatch(plain, pattern) for pattern in patterns)


def _changes_rounding_alone(key: str) -> bool:
    """Whether a setting changes nothing but the order in which numbers are added: those of the engine do, but for its
    precision."""
    return key.startswith("engine.") and key != "engine.precision"
