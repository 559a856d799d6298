"""From the command line to a checked configuration: Hydra composes, `launch.cli.schema` compares, one line per mistake.

Hydra alone adds a typo that stands in a file, lists no valid keys, and lets an experiment's keys leak into whatever
group the command line chose. So every setting of the command line is handed to Hydra as "add or override", and the
composed tree is then compared with the dataclasses that its nodes name. A node that gets another `_target_` there keeps
nothing of the files': their keys are another class's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.cli.schema import Schema, did_you_mean, locate
from launch.cli.stages import place_stages
from runs.source_tree import CONF

EXPERIMENTS = "exp"
RETRIEVERS = ("bm25", "bi_encoder")  # what the names of conf/model/ begin with whose default is eval=retrieval

# `- eval: ${evaluation_of:${model}}` in a defaults list
OmegaConf.register_new_resolver(
    "evaluation_of", lambda model: "retrieval" if model.startswith(RETRIEVERS) else "reranking", replace=True
)


def load(overrides: Sequence[str], config_name: str = "train", config_dir: str | Path | None = None) -> Any:
    """The settings that a command line means, as objects: `instantiate(compose(...))`."""
    return instantiate(compose(overrides, config_name, config_dir))


def compose(
    overrides: Sequence[str], config_name: str = "train", config_dir: str | Path | None = None
) -> dict[str, Any]:
    """The tree of `config_name` under conf/ (and `config_dir`) with `overrides`, checked and resolved.

    A `run_name` that is null becomes the experiment's name, else `config_name`. Raises ValueError with one line.
    """
    sources = Sources.find(overrides, config_name, config_dir)
    with one_line_errors(sources), searching(sources.folders):
        composed = hydra_compose(config_name, sources.forced, return_hydra_config=True)
        experiment = composed.hydra.runtime.choices.get(EXPERIMENTS)
        del composed.hydra
        plain: Any = OmegaConf.to_container(composed, resolve=True)
        plain = place_stages(plain, sources.keys)
    checked = check(plain, config_name, sources)
    if "run_name" in checked and checked["run_name"] is None:
        checked["run_name"] = (experiment or config_name).replace("/", "-")
    return checked


def instantiate(tree: Mapping[str, Any]) -> Any:
    """The objects of a composed tree: every node is the object that its `_target_` makes.

    Raises ValueError with one line that names the key where a dataclass refuses its values.
    """
    return Schema(tree, construct=True).node(tree, locate(tree.get("_target_"), "config"), "")


def check(plain: dict[str, Any], config_name: str, sources: Sources) -> dict[str, Any]:
    """`plain` with values converted to their fields' types."""
    files = cache(lambda: sources.files(config_name))  # for messages alone: as much work as composing

    def origin(key: str) -> str:
        file = None if sources.from_command_line(key) else sources.file_setting(key, files())
        return f" (set in {file})" if file else ""

    def advice(key: str) -> str:
        if "." not in key and (choices := sources.choices(key)):
            return f"one of {', '.join(choices)}"
        file = sources.file_setting(key, files())
        comment = file and re.search(rf"^\s*{key.rpartition('.')[2]}:[^#\n]*#\s*(.+)$", Path(file).read_text(), re.M)
        return comment.group(1).strip() if comment else ""

    if "_target_" not in plain:
        raise ValueError(f"{config_name}.yaml has no _target_: it names the dataclass of the configuration's root")
    schema = Schema(plain, origin=origin, advice=advice, also=(f"+{EXPERIMENTS}",))
    return schema.node(plain, locate(plain["_target_"], config_name), "")


@dataclass(frozen=True)
class Sources:
    """Where the settings come from: the folders of configuration files and the command line."""

    folders: tuple[Path, ...]
    given: tuple[str, ...]  # the overrides as the user wrote them
    forced: list[str]  # the same, as Hydra gets them, after what empties the replaced nodes
    keys: tuple[str, ...]  # left of their "="

    @classmethod
    def find(cls, overrides: Sequence[str], config_name: str, config_dir: str | Path | None) -> Sources:
        folders = (CONF,) if config_dir is None else (CONF, Path(config_dir).resolve())
        for folder in folders:
            if not folder.is_dir():
                raise FileNotFoundError(f"the configuration directory {folder} does not exist")
        parsed = [parse(override, folders) for override in overrides]
        emptied = dict.fromkeys(node for override in parsed if (node := replaced_node(override, folders)))
        forced = [*(f"++{node}=null" for node in emptied), *(force(override, folders) for override in parsed)]
        keys = tuple(override.key_or_group for override in parsed)
        return cls(folders, tuple(overrides), forced, keys)

    def from_command_line(self, key: str) -> bool:
        settings = [given for given in self.keys if not is_group_name(given, self.folders)]
        return any(key == given or key.startswith(f"{given}.") for given in settings)

    def files(self, config_name: str) -> list[tuple[str, str]]:
        """What is composed: (path below conf/, package), in merge order."""
        with searching(self.folders):
            loader = GlobalHydra.instance().config_loader()
            found = loader.compute_defaults_list(config_name, self.forced, RunMode.RUN).defaults
        return [(entry.config_path, entry.package or "") for entry in found if entry.config_path]

    def file_setting(self, key: str, files: list[tuple[str, str]]) -> str | None:
        """The last of `files` that sets `key`, relative to the working directory."""
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
        return next((file for folder in self.folders if (file := folder / f"{path}.yaml").is_file()), None)

    def choices(self, group: str) -> list[str]:
        return choices(group, self.folders)

    def chosen_in(self, group: str, choice: str) -> str:
        """The experiment or the configuration that chooses `choice`, where the command line does not."""
        if group in self.keys:
            return ""
        experiments = [text.partition("=")[2] for text in self.given if text.lstrip("+").startswith(f"{EXPERIMENTS}=")]
        files = [file for name in experiments if (file := self.locate(f"{EXPERIMENTS}/{name}"))]
        chosen = re.compile(rf"\b{re.escape(group)}:\s*['\"]?{re.escape(choice)}\b")
        return next((f" (chosen in {os.path.relpath(file)})" for file in files if chosen.search(file.read_text())), "")


_ABSENT = object()


def parse(override: str, folders: Sequence[Path]) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        raise ValueError(
            f"{override} is not a setting: write KEY=VALUE or GROUP=CHOICE, values with commas, brackets, = or "
            f"quotes in quotes: \"KEY='VALUE'\"; groups: {', '.join(groups(folders))}"
        ) from None


def force(override: Override, folders: Sequence[Path]) -> str:
    """`key=value` as `++key=value`, so that a wrong key reaches the check and not Hydra; a group's choice as given."""
    assert override.input_line is not None
    is_group = is_group_name(override.key_or_group, folders)
    if override.key_or_group == EXPERIMENTS and is_group and override.type is OverrideType.CHANGE:
        valid = ", ".join(choices(EXPERIMENTS, folders))
        raise ValueError(f"{override.input_line} lacks a plus: write +{override.input_line}; experiments: {valid}")
    chosen = override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str | list | dict)
    if is_group and not chosen:
        raise ValueError(
            f"{override.input_line} is not a choice: valid: {', '.join(choices(override.key_or_group, folders))}"
        )
    if override.type is OverrideType.CHANGE and not is_group and not override.is_hydra_override():
        # an emptied node is added: of two settings with equal keys, "++node", Hydra's sweeper would keep one
        emptied = replaced_node(override, folders) == override.key_or_group
        return f"{'+' if emptied else '++'}{override.input_line}"
    return override.input_line


def replaced_node(override: Override, folders: Sequence[Path]) -> str | None:
    """The node below a group that the setting replaces: its `_target_`, a mapping with one, or a list is given."""
    node, _, name = override.key_or_group.rpartition(".")
    if override.is_delete() or override.is_hydra_override():
        return None
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    whole = any(isinstance(item, list) or (isinstance(item, dict) and "_target_" in item) for item in values)
    replaced = node if name == "_target_" else override.key_or_group if whole else ""
    return replaced if replaced and not is_group_name(replaced, folders) else None


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def is_group_name(key: str, folders: Sequence[Path]) -> bool:
    """Whether `key` is a group, "data", or one inside another, "data/candidates"."""
    return any((folder / key).is_dir() for folder in folders)


def groups(folders: Sequence[Path]) -> list[str]:
    return sorted({child.name for folder in folders for child in folder.iterdir() if child.is_dir()})


@contextmanager
def searching(folders: Sequence[Path]) -> Iterator[None]:
    """Hydra's compose API over `folders`, the first before the others. (`hydra.searchpath` finds no primary config.)"""
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


@contextmanager
def one_line_errors(sources: Sources) -> Iterator[None]:
    """Hydra's, OmegaConf's and YAML's errors as ValueError with one line."""
    try:
        yield
    except MissingConfigException as error:
        raise ValueError(unknown_choice(error, sources)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{os.path.relpath(mark.name)}:{mark.line + 1}" if mark else "a configuration file"
        raise ValueError(f"{place} is not valid YAML: {error.problem}") from error
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(str(cause) for cause in (error, error.__cause__) if cause)
        for given, forced in zip(reversed(sources.given), reversed(sources.forced), strict=False):
            text = text.replace(forced, given)
        raise ValueError(" ".join(text.split())) from error


def unknown_choice(error: MissingConfigException, sources: Sources) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"{choice}.yaml is not in {' or '.join(map(str, sources.folders))}"
    valid, where = sources.choices(group), sources.chosen_in(group, choice)
    prefix = "+" if group == EXPERIMENTS else ""
    return f"{prefix}{group}={choice}{where} is not a choice: {did_you_mean(choice, valid)}valid: {', '.join(valid)}"
