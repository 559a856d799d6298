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
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.cli.overrides import EXPERIMENTS, Sources, searching, target_of
from launch.cli.schema import Schema, did_you_mean, locate
from launch.cli.stages import apply_stage_overrides


def evaluation_of(choice: str) -> str:
    """The file of conf/eval that fits the file `choice` of conf/model: what the class declares that it names.

    "reranking" for a file that is not there or names no class: the checks after composing report it.
    """
    with suppress(ValueError):
        return getattr(locate(target_of("model", choice), "model"), "default_evaluation", "reranking")
    return "reranking"


# `- eval: ${evaluation_of:${model}}` in a defaults list
OmegaConf.register_new_resolver("evaluation_of", evaluation_of, replace=True)


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
        plain = apply_stage_overrides(plain, sources.keys)
    checked = check(plain, config_name, sources)
    if "run_name" in checked and checked["run_name"] is None:
        checked["run_name"] = (experiment or config_name).replace("/", "-")
    return checked


def instantiate(tree: Mapping[str, Any]) -> Any:
    """The objects of a composed tree: every node is the object that its `_target_` makes.

    Raises ValueError with one line that names the key if a dataclass refuses its values.
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
