"""What W&B's files of a run hold, read by W&B's own reader: a killed run has lost what was not written yet."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runs.loggers.logged_steps import LoggedSteps
from runs.redaction import redact_tree
from runs.settings_diff import settings_of_result

UNSENT_S = 30.0  # what an online run that was killed has logged so shortly before may not have been sent
NOT_METRICS = ("step", "_step", "_runtime", "_timestamp")


def logged_before(folder: Path, run_id: str, settings: Mapping[str, Any]) -> LoggedSteps:
    """What earlier starts of the W&B run `run_id` have logged, by their files below W&B's `folder`.

    A start with other settings, of those that change the result, does not count: its values are of another training.
    """
    steps = LoggedSteps()
    for file in sorted(folder.glob(f"*run-*-{run_id}/*.wandb")):
        with suppress(OSError, subprocess.SubprocessError, ValueError, KeyError):  # a broken file: logged again
            for row in _rows_of(file, settings):
                if "step" in row:
                    steps.add({name: value for name, value in row.items() if name not in NOT_METRICS}, int(row["step"]))
    return steps


def _rows_of(file: Path, settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    is_ended = False
    for record in read_records(file, ("run", "history", "exit")):
        if record["type"] == "run" and not _same_training(record["run"]["config"]["update"], settings):
            return []
        if record["type"] == "history":
            rows.append(record["history"]["item"])
        is_ended |= record["type"] == "exit"
    if rows and not is_ended and not file.parent.name.startswith("offline"):
        end = rows[-1]["_timestamp"] - UNSENT_S
        rows = [row for row in rows if row["_timestamp"] < end]
    return rows


def _same_training(config: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the config of a W&B run holds these settings, except for those that do not change the result."""
    now: Mapping[str, Any] = json.loads(json.dumps(redact_tree(settings)))
    return settings_of_result({key: config.get(key) for key in now}) == settings_of_result(now)


def read_records(file: Path, types: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The records of these types of a .wandb file, by `wandb leet inspect --json`."""
    from wandb.util import get_core_path

    reader = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", os.fspath(file)]
    with subprocess.Popen(
        [*reader, os.fspath(file.parent.parent)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if any(f'"type":"{kind}"' in line for kind in types):
                record: dict[str, Any] = json.loads(line)
                if record["type"] in types:
                    yield record
