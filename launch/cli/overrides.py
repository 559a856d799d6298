"""Parse the settings of a command line, convert them for Hydra, and find the configuration files that they refer to."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ConfigDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import OmegaConf

from runs.settings_tree import as_value
from runs.source_tree import CONF

EXPERIMENTS = "exp"
SOURCE_LOSS = re.compile(r"(?:stage\.[^.]+\.)?data\.sources\.[^.]+\.loss")


@dataclass(frozen=True)
class Sources:
    """The sources of the settings: the folders of configuration files and the command line."""

    folders: tuple[Path, ...]
    given: tuple[str, ...]  # the overrides as the user wrote them
    hydra_overrides: list[str]  # the same as Hydra gets them; nodes that they replace are set to null first
    keys: tuple[str, ...]  # the parts before "="

    @classmethod
    def parse(cls, overrides: Sequence[str], config_name: str, config_dir: str | Path | None) -> Sources:
        """Parse the overrides of a command line. Raises ValueError if one is not a setting."""
        folders = config_folders(config_dir)
        parsed = [parse_override(override, folders) for override in overrides]
        chosen = dict(found for override in parsed if (found := source_loss(override, folders)))
        parsed = [override for override in parsed if source_loss_choice(override) is None]
        keys = tuple(override.key_or_group for override in parsed)
        replaced = dict.fromkeys(node for override in parsed if (node := replaced_node(override, folders)))
        hydra_overrides = [
            *(f"++{key}=null" for key in chosen),
            *(f"+{key}={node}" for key, node in chosen.items()),
            *(f"++{node}=null" for node in replaced),
            *(as_upsert(override, folders) for override in parsed),
        ]
        return cls(folders, tuple(overrides), hydra_overrides, (*keys, *chosen))

    def is_on_command_line(self, key: str) -> bool:
        """Whether the command line sets the key or a node that contains it."""
        settings = [setting for setting in self.keys if not is_group_name(setting, self.folders)]
        return any(key == setting or key.startswith(f"{setting}.") for setting in settings)

    def files(self, config_name: str) -> list[tuple[str, str]]:
        """The files that are composed as (path below conf/, package), in the order of merging."""
        with hydra_search_path(self.folders):
            loader = GlobalHydra.instance().config_loader()
            found = loader.compute_defaults_list(config_name, self.hydra_overrides, RunMode.RUN).defaults
        return [(entry.config_path, entry.package or "") for entry in found if entry.config_path]

    def file_setting(self, key: str, files: list[tuple[str, str]]) -> str | None:
        """The last of `files` that sets `key`, as a path relative to the working directory."""
        for path, package in reversed(files):
            prefix = "" if package == "_global_" else package
            file = self.locate(path)
            if file is None or not (not prefix or key.startswith(f"{prefix}.")):
                continue
            node: Any = yaml.safe_load(file.read_text()) or {}
            for name in key[len(prefix) + 1 if prefix else 0 :].split("."):
                node = node[name] if isinstance(node, dict) and name in node else _ABSENT
            if node is not _ABSENT:
                return os.path.relpath(file)
        return None

    def locate(self, path: str) -> Path | None:
        """The file of a path below conf/ or --config-dir; None if there is none."""
        return next((file for folder in self.folders if (file := folder / f"{path}.yaml").is_file()), None)

    def choices(self, group: str) -> list[str]:
        return choices(group, self.folders)

    def chosen_in(self, group: str, choice: str) -> str:
        """The text " (chosen in FILE)" if an experiment chooses `choice`; empty if the command line does."""
        if group in self.keys:
            return ""
        experiments = [text.partition("=")[2] for text in self.given if text.lstrip("+").startswith(f"{EXPERIMENTS}=")]
        files = [file for name in experiments if (file := self.locate(f"{EXPERIMENTS}/{name}"))]
        chosen = re.compile(rf"\b{re.escape(group)}:\s*['\"]?{re.escape(choice)}\b")
        return next((f" (chosen in {os.path.relpath(file)})" for file in files if chosen.search(file.read_text())), "")


_ABSENT = object()


def config_folders(config_dir: str | Path | None) -> tuple[Path, ...]:
    """conf/ and the user's --config-dir. Raises FileNotFoundError if that does not exist."""
    folders = (CONF,) if config_dir is None else (CONF, Path(config_dir).resolve())
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"the configuration directory {folder} does not exist")
    return folders


def parse_override(override: str, folders: Sequence[Path]) -> Override:
    """Parse KEY=VALUE with Hydra's grammar. Raises ValueError if it is not a setting."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        raise ValueError(
            f"{override} is not a setting: write KEY=VALUE or GROUP=CHOICE, values with commas, brackets, = or "
            f"quotes in quotes: \"KEY='VALUE'\"; groups: {', '.join(groups(folders))}"
        ) from None


def source_loss_choice(override: Override) -> tuple[str, str] | None:
    """The key of a data set of a mixture and the name of the loss that the setting chooses for it, in the form
    data.sources.NAME.loss=CHOICE or +loss@data.sources.NAME.loss=CHOICE; None if it is another setting, or a sweep,
    whose jobs have one choice each."""
    key = override.package if override.key_or_group == "loss" and override.package else override.key_or_group
    if not SOURCE_LOSS.fullmatch(key) or override.is_delete() or override.is_sweep_override():
        return None
    value = override.value()
    return (key, value) if isinstance(value, str) else None


def source_loss(override: Override, folders: Sequence[Path]) -> tuple[str, str] | None:
    """The key of a data set's loss and its node from conf/loss, as a value in Hydra's grammar; None if the setting
    chooses none. (Composed as a group, it would be lost to the data set's own file if that is named after it, and could
    not replace the choice of a file.)"""
    found = source_loss_choice(override)
    if found is None:
        return None
    key, choice = found
    if choice not in choices("loss", folders):
        valid = choices("loss", folders)
        close = difflib.get_close_matches(choice, valid, n=1)
        raise ValueError(
            f"{key}={choice} is not a choice: {f'did you mean {close[0]}? ' if close else ''}valid: "
            f"{', '.join(valid)}; or a node, {key}='{{_target_: module.Name}}'"
        )
    with hydra_search_path(folders):
        node = hydra_compose(f"loss/{choice}").loss
    return key, as_value(OmegaConf.to_container(node))


def as_upsert(override: Override, folders: Sequence[Path]) -> str:
    """Convert `key=value` to `++key=value`, so that a wrong key is reported by the check and not by Hydra. The choice
    of a group is not changed."""
    assert override.input_line is not None
    is_group = is_group_name(override.key_or_group, folders)
    if override.key_or_group == EXPERIMENTS and is_group and override.type is OverrideType.CHANGE:
        valid = ", ".join(choices(EXPERIMENTS, folders))
        raise ValueError(f"{override.input_line} lacks a plus sign: write +{override.input_line}; experiments: {valid}")
    chosen = override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str | list | dict)
    if override.key_or_group == "loss" and not chosen and override.value() is None:
        return f"~{override.input_line.lstrip('+').partition('=')[0]}"  # Hydra knows no choice of null
    if is_group and not chosen:
        raise ValueError(
            f"{override.input_line} is not a choice: valid: {', '.join(choices(override.key_or_group, folders))}"
        )
    if override.type is OverrideType.CHANGE and not is_group and not override.is_hydra_override():
        # A replaced node was set by "++node=null". It needs "+node": of two equal keys Hydra's sweeper keeps only one.
        is_replaced = replaced_node(override, folders) == override.key_or_group
        return f"{'+' if is_replaced else '++'}{override.input_line}"
    return override.input_line


def replaced_node(override: Override, folders: Sequence[Path]) -> str | None:
    """The node below a group that the setting replaces, because it gives a `_target_`, a mapping with one, or a list;
    None if it replaces none."""
    node, _, name = override.key_or_group.rpartition(".")
    if override.is_delete() or override.is_hydra_override():
        return None
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    is_whole_node = any(isinstance(item, list) or (isinstance(item, dict) and "_target_" in item) for item in values)
    replaced = node if name == "_target_" else override.key_or_group if is_whole_node else ""
    return replaced if replaced and not is_group_name(replaced, folders) else None


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """The names of the files of a group."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def is_group_name(key: str, folders: Sequence[Path]) -> bool:
    """Whether `key` is a group ("data") or a group inside a group ("data/candidates")."""
    return any((folder / key).is_dir() for folder in folders)


def groups(folders: Sequence[Path]) -> list[str]:
    """The names of all groups."""
    return sorted({child.name for folder in folders for child in folder.iterdir() if child.is_dir()})


def target_of(group: str, choice: str) -> Any:
    """The `_target_` of a file of a group, from the file itself or from the files in its defaults list; None if it has
    none. Call it inside `hydra_search_path` or a run of Hydra."""
    loader: Any = GlobalHydra.instance().config_loader()
    found = loader.repository.load_config(f"{group}/{choice}")
    if found is None:
        return None
    content: Any = OmegaConf.to_container(found.config)
    if "_target_" in content:
        return content["_target_"]
    bases = [entry.path for entry in found.defaults_list or () if isinstance(entry, ConfigDefault) and entry.path]
    targets = (target_of(group, base.removeprefix(f"/{group}/")) for base in reversed(bases) if base != "_self_")
    return next((target for target in targets if target is not None), None)


@contextmanager
def hydra_search_path(folders: Sequence[Path]) -> Iterator[None]:
    """Make `folders` the search path of Hydra's compose API. (The option `hydra.searchpath` would not find a primary
    config in them.)"""
    version.setbase("1.3")
    search_path = create_config_search_path(str(folders[0]))
    for folder in folders[1:]:
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    backup = get_gh_backup()
    GlobalHydra.instance().clear()  # a job of --multirun runs inside Hydra
    try:
        Hydra.create_main_hydra2("plackett", search_path)
        yield
    finally:
        restore_gh_from_backup(backup)
