"""The trials of a search, and how much each of its settings matters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

JOURNAL = "search.journal"  # Optuna's file of a search
FEWEST = 5  # trials from which the importance of a setting is said
_NUMBER = re.compile(r"trial (\d+)")


def search_results(
    folder: Path, plan: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The trials of a search: {"settings": the keys, "dev": {configuration: mean of best_dev}, "trials":
    {configuration: {"number", "values"}}, "correlations": {setting: rank correlation with dev}}; None if the ablation
    is no search.

    The correlation is Spearman's, of settings that are numbers, over the trials that have a value on dev. A trial
    without a value is not in "dev".
    """
    if not (folder / JOURNAL).is_file():
        return None
    trials: dict[str, dict[str, Any]] = {}
    for place, configuration in enumerate(plan["configurations"]):
        found = _NUMBER.match(configuration["name"])
        values = dict(map(_setting, configuration["overrides"]))
        trials[configuration["name"]] = {"number": int(found.group(1)) if found else place, "values": values}
    dev = {name: entry["best_dev"] for name, entry in entries.items() if entry["best_dev"] is not None}
    settings = list(dict.fromkeys(key for trial in trials.values() for key in trial["values"]))
    return {"settings": settings, "dev": dev, "trials": trials, "correlations": _correlations(settings, trials, dev)}


def _setting(override: str) -> tuple[str, Any]:
    """The key and the value of a setting of the command line."""
    key, _, text = override.lstrip("+~").partition("=")
    try:
        value = yaml.safe_load(text)
        return key, float(text) if isinstance(value, str) else value  # YAML reads 1e-05 as a word
    except (ValueError, yaml.YAMLError):
        return key, text


def _correlations(settings: Sequence[str], trials: Mapping[str, Any], dev: Mapping[str, float]) -> dict[str, float]:
    from scipy.stats import spearmanr

    found = {}
    scores = np.array(list(dev.values()))
    for key in settings:
        values = [trials[name]["values"].get(key) for name in dev]
        if len(values) < FEWEST or not all(is_number(value) for value in values):
            continue
        if len(set(values)) > 1 and len(set(scores)) > 1:
            found[key] = float(spearmanr(np.array(values, dtype=float), scores).statistic)
    return found


def is_number(value: Any) -> bool:
    """Whether a setting's value is a number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
