"""Whether the files that settings name are there, before anything is read."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from data.formats.suite import SuiteConfig
from data.option_names import building
from data.source import SourceOptions
from runs.settings_tree import children_of


def check_places(settings: Any, key: str = "") -> None:
    """Raise FileNotFoundError or ValueError, which names the option, if local data that the settings of a run name are
    not there. `key`: the node of the settings. What only a hub can tell is not asked."""
    with building(key, settings) if isinstance(settings, SourceOptions | SuiteConfig) else nullcontext():
        if hasattr(settings, "check_place"):
            settings.check_place()
        for name, child in children_of(settings):
            check_places(child, f"{key}.{name}".lstrip("."))
