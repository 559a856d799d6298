"""Compare the settings that a run was started with and those that it resumes with."""

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

# Settings that may differ when a run is resumed: they change what is saved, logged or kept in memory, not the result.
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


def differences(old: Any, new: Any, may_differ: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The settings that differ, each as "key old -> new": those that change the result, and those that only change its
    rounding. Settings in RESUME_SAFE or `may_differ` are left out, also if they belong to a stage."""
    old, new = flatten(old), flatten(new)
    changed = [
        key
        for key in {**old, **new}
        if old.get(key, _ABSENT) != new.get(key, _ABSENT) and not _matches(key, (*RESUME_SAFE, *may_differ))
    ]
    lines = {key: f"{key} {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in changed}
    return (
        [line for key, line in lines.items() if not _changes_rounding_only(key)],
        [line for key, line in lines.items() if _changes_rounding_only(key)],
    )


def flatten(node: Any, key: str = "") -> dict[str, Any]:
    """The leaves of a tree of mappings by dotted key. Lists are leaves."""
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
    plain = re.sub(r"^stage\.[^.]+\.", "", key)  # a stage's setting counts like that of a run without stages
    return any(fnmatch(plain, pattern) for pattern in patterns)


def _changes_rounding_only(key: str) -> bool:
    """Whether a setting only changes the order of additions. All settings of the engine do, except its precision."""
    return key.startswith("engine.") and key != "engine.precision"
