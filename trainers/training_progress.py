"""How far a training is: a bar or lines with its newest metrics, and notes above it."""

from __future__ import annotations

from collections.abc import Mapping

from data.progress import Progress, write
from engines.distributed.process_group import is_main

SHOWN = {"loss": "loss", "reward_mean": "reward", "learning_rate": "lr", "rows_per_s": "rows/s"}


class TrainingProgress(Progress):
    """The steps of a training. What is no step (evaluations, checkpoints, ...) runs while it is `paused`."""

    def __init__(self, step: int, max_steps: int) -> None:
        super().__init__("training", max_steps, "steps", done=step)
        self._noted: set[str] = set()

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show some of the metrics from now on."""
        shown = {short: f"{metrics[name]:.3g}" for name, short in SHOWN.items() if name in metrics}
        self.note = ", ".join(f"{name} {value}" for name, value in shown.items())

    def write(self, line: str) -> None:
        """Print a line, on rank 0."""
        if is_main():
            write(line)

    def note_once(self, subject: str, line: str) -> None:
        """Print the line unless one about this subject was printed before."""
        if subject not in self._noted:
            self._noted.add(subject)
            self.write(line)
