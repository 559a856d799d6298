"""Compare the settings that a run was started with and those that it resumes with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runs.places import Contents, first_difference
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
    "data.sources.*.cache_dir",
    "dev_suite.cache_dir",
    "test_suite.cache_dir",
    "eval.token_budget",
)
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """A setting that differs. `text` describes it; the options of a node of another class have one text together."""

    key: str
    text: str
    is_content: bool = False  # of files that the setting names

    @property
    def changes_rounding_only(self) -> bool:
        """Whether it only changes the order of additions. All settings of the engine do, except its precision."""
        return self.key.startswith("engine.") and self.key != "engine.precision"


def differences(
    old: Any, new: Any, may_differ: Sequence[str] = (), contents: tuple[Contents, Contents] = ({}, {})
) -> tuple[list[Change], list[Change]]:
    """The settings that differ: those that change the result, and those that only change its rounding.

    Settings in RESUME_SAFE or `may_differ` are left out, also if they belong to a stage. A setting that names files is
    compared by the old and the new `contents` of these, if both are known.
    """
    before, now = flatten(old), flatten(new)
    changes = []
    for key in {**before, **now}:
        values = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if _matches(key, (*RESUME_SAFE, *may_differ)):
            continue
        if all(key in known for known in contents):
            if difference := first_difference(*(known[key] for known in contents)):
                changes.append(Change(key, _describe_content(key, values, difference), is_content=True))
        elif values[0] != values[1]:
            changes.append(Change(key, _describe(key, old, new)))
    return (
        [change for change in changes if not change.changes_rounding_only],
        [change for change in changes if change.changes_rounding_only],
    )


def settings_of_result(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of settings, by dotted key, that change the result: without the name and RESUME_SAFE."""
    return {key: value for key, value in flatten(tree).items() if not _matches(key, (*RESUME_SAFE, "run_name"))}


def texts_of(changes: Sequence[Change]) -> list[str]:
    """The texts of the changes, each once."""
    return list(dict.fromkeys(change.text for change in changes))


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


def _describe(key: str, old: Any, new: Any) -> str:
    """Describe a setting that differs: "loss ListNet -> RankNet" if it is an option of a node of another class."""
    names = key.split(".")
    for end in range(1, len(names) + 1):
        part = ".".join(names[:end])
        values = _lookup(old, names[:end]), _lookup(new, names[:end])
        if _class_of(values[0]) != _class_of(values[1]) and key != "engine.precision":
            break
    shown = [_show(value) for value in values]
    if shown[0] == shown[1]:  # classes of one name
        shown = [_class_of(value) or text for value, text in zip(values, shown, strict=True)]
    return f"{part} {shown[0]} -> {shown[1]}"


def _describe_content(key: str, values: Sequence[Any], difference: str) -> str:
    then = f" ({values[0]})" if values[0] != values[1] else ""
    return f"{key}={values[1]}: {difference} at the start{then}"


def _lookup(tree: Any, names: Sequence[str]) -> Any:
    for name in names:
        tree = tree.get(name, _ABSENT) if isinstance(tree, Mapping) else _ABSENT
    return tree


def _class_of(value: Any) -> str | None:
    """The class of a node; None for a plain value or mapping. A missing mapping counts as one of another class."""
    if isinstance(value, Mapping):
        return str(value.get("_target_", ""))
    return None


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        target = value.get("_target_")
        return str(target).rpartition(".")[2] if target else "{" + ", ".join(map(str, value)) + "}"
    return str(value)
