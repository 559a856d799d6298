"""Compose the configuration of a command line with Hydra, and check it with `launch.cli.schema`.

Hydra alone accepts a typo in a file, does not list the valid keys, and lets the keys of an experiment leak into a group
that the command line has replaced. So every setting of the command line is given to Hydra as "add or override" (`++`),
and the composed tree is then compared with the classes that its nodes name. If the command line changes the `_target_`
of a node, the node's keys in files are dropped, because they belong to another class. Every error is one line.
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

from launch.cli.epochs import apply_epochs
from launch.cli.overrides import EXPERIMENTS, Sources, hydra_search_path, target_of
from launch.cli.schema import Schema, locate, suggest_name
from launch.cli.stages import apply_stage_overrides


def evaluation_of(choice: str) -> str:
    """The file of conf/eval that fits the file `choice` of conf/model, as the model's class declares.

    "reranking" if the file does not exist or names no class; the checks after composing report that.
    """
    with suppress(ValueError):
        return getattr(locate(target_of("model", choice), "model"), "default_evaluation", "reranking")
    return "reranking"


# `- eval: ${evaluation_of:${model}}` in a defaults list
OmegaConf.register_new_resolver("evaluation_of", evaluation_of, replace=True)


def load(overrides: Sequence[str], config_name: str = "train", config_dir: str | Path | None = None) -> Any:
    """Load the settings of a command line as objects: `instantiate(compose(...))`."""
    return instantiate(compose(overrides, config_name, config_dir))


def compose(
    overrides: Sequence[str], config_name: str = "train", config_dir: str | Path | None = None
) -> dict[str, Any]:
    """Compose the tree of `config_name` from conf/ (and `config_dir`) with `overrides`, checked and resolved.

    If `run_name` is null, it becomes the experiment's name or else `config_name`. An evaluation that the command line
    chooses is the only one: `eval_of_degrees` becomes null. Epochs that it sets alone are the only limit of training:
    `max_steps` becomes null. Raises ValueError with one line.
    """
    sources = Sources.parse(overrides, config_name, config_dir)
    with one_line_errors(sources), hydra_search_path(sources.folders):
        composed = hydra_compose(config_name, sources.hydra_overrides, return_hydra_config=True)
        experiment = composed.hydra.runtime.choices.get(EXPERIMENTS)
        del composed.hydra
        tree: Any = OmegaConf.to_container(composed, resolve=True)
        tree = fix_evaluation(apply_epochs(apply_stage_overrides(tree, sources.keys), sources.keys), sources.keys)
    checked = check(tree, config_name, sources)
    if "run_name" in checked and checked["run_name"] is None:
        checked["run_name"] = (experiment or config_name).replace("/", "-")
    return checked


def instantiate(tree: Mapping[str, Any], key: str = "") -> Any:
    """Build the objects of a composed tree, or of its node `key`: every node becomes what its `_target_` returns.

    Raises ValueError with one line that names the key if a dataclass rejects its values.
    """
    return Schema(tree, construct=True).convert_node(tree, locate(tree.get("_target_"), key or "config"), key)


def check(tree: dict[str, Any], config_name: str, sources: Sources) -> dict[str, Any]:
    """Compare the tree with its classes. Returns it with values converted to the types of their fields."""
    files = cache(lambda: sources.files(config_name))  # only for error messages: it takes as long as composing

    def set_in(key: str) -> str:
        file = None if sources.is_on_command_line(key) else sources.file_setting(key, files())
        return f" (set in {file})" if file else ""

    def describe_missing(key: str) -> str:
        if "." not in key and (choices := sources.choices(key)):
            return f"one of {', '.join(choices)}"
        file = sources.file_setting(key, files())
        comment = file and re.search(rf"^\s*{key.rpartition('.')[2]}:[^#\n]*#\s*(.+)$", Path(file).read_text(), re.M)
        return comment.group(1).strip() if comment else ""

    if "_target_" not in tree:
        raise ValueError(f"{config_name}.yaml has no _target_: it must name the dataclass of the configuration's root")
    schema = Schema(tree, set_in=set_in, describe_missing=describe_missing, extra_keys=(f"+{EXPERIMENTS}",))
    return schema.convert_node(tree, locate(tree["_target_"], config_name), "")


def fix_evaluation(tree: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Apply the command line's `eval` to `eval_of_degrees`, the evaluation of pairs whose labels are degrees.

    It becomes null if the command line chooses the evaluation or its metrics. Other options of `eval` are written to it
    too, if it has them.
    """
    other, own = tree.get("eval_of_degrees"), tree.get("eval")
    if not isinstance(other, dict) or not isinstance(own, dict):
        return tree
    if {"eval", "eval.metric", "eval.metrics", "eval._target_"} & set(keys):
        return tree | {"eval_of_degrees": None}
    shared = {key: own[key] for key in other if f"eval.{key}" in keys and f"eval_of_degrees.{key}" not in keys}
    return tree | {"eval_of_degrees": other | shared}


@contextmanager
def one_line_errors(sources: Sources) -> Iterator[None]:
    """Turn errors of Hydra, OmegaConf and YAML into ValueError with one line."""
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
        for typed, passed in zip(reversed(sources.given), reversed(sources.hydra_overrides), strict=False):
            text = text.replace(passed, typed)
        raise ValueError(no_such_group(text, sources) or " ".join(text.split())) from error


OWN_FILES = (EXPERIMENTS, "ablation")  # groups whose files are often a user's own


def no_such_group(text: str, sources: Sources) -> str:
    """The message for a group that this command does not have, set by an experiment of another command or on the
    command line; empty if Hydra's `text` is about something else."""
    found = re.search(r"Could not override '([^']+)'", text)
    if found is None:
        return ""
    group, given = found.group(1), [setting.lstrip("+") for setting in sources.given]
    own = next((setting for setting in given if setting.startswith(f"{group}=")), None)
    experiment = next((setting for setting in given if setting.startswith(f"{EXPERIMENTS}=")), None)
    if own is not None or experiment is None:
        return f"{own or group}: this command has no {group.partition('@')[0]}: leave it out (--help lists its groups)"
    return (
        f"+{experiment} is an experiment of launch/train.py, it chooses a {group.partition('@')[0]}, which this "
        "command does not have: leave it out and choose model and data (model=NAME model.name_or_path=PATH data=NAME "
        "data.path=PATH)"
    )


def unknown_choice(error: MissingConfigException, sources: Sources) -> str:
    """The message for a file of a group that does not exist."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"{choice}.yaml is not in {' or '.join(map(str, sources.folders))}"
    valid, place = sources.choices(group), sources.chosen_in(group, choice)
    prefix = "+" if group == EXPERIMENTS else ""
    said = f"{prefix}{group}={choice}{place} is not a choice: {suggest_name(choice, valid)}valid: {', '.join(valid)}"
    is_alone = len(sources.folders) == 1 and group in OWN_FILES
    return said + f"; for a file of your own, {group}/{choice}.yaml below FOLDER, --config-dir FOLDER" * is_alone
