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
    """The last step at which each value was logged. A run that goes back repeats steps, and each is logged once."""

    def __init__(self, last: Mapping[str, int] | None = None):
        self.last = dict(last or {})

    def new(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The values that were not logged at this step or a later one."""
        new = {name: value for name, value in metrics.items() if step > self.last.get(_key(name, metrics), -1)}
        return new if new.keys() - {"stage"} else {}

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note that these values are logged."""
        for key in (_key(name, metrics) for name in metrics):
            self.last[key] = max(step, self.last.get(key, -1))


def _key(name: str, metrics: Mapping[str, Any]) -> str:
    """A stage starts at the step at which the one before has ended, with its best model: so its first value on dev is
    another one at that step. That on test is the one that was logged."""
    stage = "" if name.startswith("test/") else metrics.get("stage", "")
    return f"{stage} {name}".strip()


class SavedSteps(LoggedSteps):
    """Logged steps in a file beside the tracker's own, for a resumed run. If a setting that changes the result differs
    (a run that starts from scratch), nothing counts as logged."""

    def __init__(self, file: Path, settings: Mapping[str, Any]):
        super().__init__()
        self._file = file
        leaves = json.dumps(settings_of_result(settings), sort_keys=True, default=str)
        self._settings = hashlib.sha256(leaves.encode()).hexdigest()[:16]
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # no file, or a broken one
            content = json.loads(file.read_text())
            if content["settings"] == self._settings:
                self.last = {str(name): int(step) for name, step in content["last"].items()}

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note that these values are logged. Raises OSError if the file cannot be written."""
        super().add(metrics, step)
        unfinished = self._file.with_name(f".{self._file.name}")
        unfinished.write_text(json.dumps({"settings": self._settings, "last": self.last}) + "\n")
        unfinished.replace(self._file)
