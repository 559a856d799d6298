"""The configurations of an ablation and their jobs: names, settings, and the folders of their runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from runs.settings_tree import as_value

MAX_FOLDER = 120  # characters of a configuration's part in the name of a run
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_PLAIN = ("null", "true", "false", "nan", "inf")  # words that Hydra does not read as strings


@dataclass(frozen=True)
class Configuration:
    """What one row of the table has been trained with. `overrides` are its own settings, beside those of all runs."""

    name: str
    overrides: tuple[str, ...]
    folder: str  # the beginning of its runs' names

    @classmethod
    def of(cls, name: str, overrides: Iterable[str], folder: str = "") -> Configuration:
        """A configuration whose runs are named after `folder`, by default after its name."""
        return cls(name, tuple(overrides), folder or folder_name(name))


@dataclass(frozen=True)
class Job:
    """One run: a configuration with a seed."""

    configuration: Configuration
    seed: int

    @property
    def name(self) -> str:
        return f"{self.configuration.folder}-seed{self.seed}"

    @property
    def label(self) -> str:
        return f"{self.configuration.name}, seed {self.seed}"


def configurations_of(
    experiments: Mapping[str, Sequence[str]], grid: Mapping[str, Sequence[Any]]
) -> list[Configuration]:
    """Every experiment with every point of the grid; the settings alone ("settings as given") if there is neither.

    Names and folders depend on a configuration's own settings only, so that those of an ablation that grows stay.
    Raises ValueError if two have one name.
    """
    found = []
    for (name, overrides), values in product(list(experiments.items()) or [("", ())], product(*grid.values())):
        point = [as_setting(key, value) for key, value in zip(grid, values, strict=True)]
        parts = [name, *(setting.lstrip("+") for setting in point)]
        title = ", ".join(part for part in parts if part) or "settings as given"
        found.append(Configuration.of(title, merged(overrides, point)))
    names = [configuration.name for configuration in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is in the ablation twice: leave one out")
    return found


def as_setting(key: str, value: Any) -> str:
    """A setting as it is written on the command line.

    >>> as_setting("exp", "reranker_bce"), as_setting("loss", "bce"), as_setting("data.path", "a b")
    ('+exp=reranker_bce', 'loss=bce', "data.path='a b'")
    """
    plus = "+" if key == "exp" else ""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return f"{plus}{key}={value}"
    return f"{plus}{key}={as_value(value)}"


def key_of(setting: str) -> str:
    """The key of a setting, without the sign before it.

    >>> key_of("+exp=NAME"), key_of("~loss"), key_of("model@teacher=bi_encoder")
    ('exp', 'loss', 'model@teacher')
    """
    return setting.lstrip("+~").partition("=")[0]


def merged(common: Iterable[str], own: Iterable[str]) -> list[str]:
    """The settings `common`, then `own`, which replace those of the same key."""
    own = list(own)
    keys = set(map(key_of, own))
    return [*(setting for setting in common if key_of(setting) not in keys), *own]


def folder_name(name: str) -> str:
    """A folder's name made of a configuration's name: letters, digits and `._-`, and a hash of what is cut.

    >>> folder_name("loss=list_net, trainer.learning_rate=1e-05")
    'loss_list_net-trainer.learning_rate_1e-05'
    """
    plain = name.replace(", ", "-").replace("=", "_")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip(".-")
    if safe == plain and len(safe) <= MAX_FOLDER:
        return safe
    return f"{safe[:MAX_FOLDER]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
