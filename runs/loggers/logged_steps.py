"""Which steps a tracker has: trackers cannot forget, and a resumed run goes back to its newest checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runs.settings_diff import settings_of_result

FILE = "logged_steps.json"


class LoggedSteps:
    """The last step at which each value was logged, kept in a file beside the tracker's own.

    A resumed run repeats the steps after its checkpoint with the same values, so each is logged once. If a setting that
    changes the result differs (a run that starts from scratch), nothing counts as logged.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]):
        self._file = file
        leaves = json.dumps(settings_of_result(settings), sort_keys=True, default=str)
        self._settings = hashlib.sha256(leaves.encode()).hexdigest()[:16]
        self._last: dict[str, int] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):  # no file, or one that was being written
            content = json.loads(file.read_text())
            if content["settings"] == self._settings:
                self._last = {str(name): int(step) for name, step in content["last"].items()}

    def new(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The values that were not logged at this step or a later one."""
        return {name: value for name, value in metrics.items() if step > self._last.get(name, -1)}

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Record that these values are logged. Raises OSError if the file cannot be written."""
        self._last.update(dict.fromkeys(metrics, step))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_name(f".{self._file.name}")
        unfinished.write_text(json.dumps({"settings": self._settings, "last": self._last}) + "\n")
        unfinished.replace(self._file)
