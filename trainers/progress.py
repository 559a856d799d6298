"""The progress bar and notes that rank 0 shows on the terminal during training."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

from engines.distributed.process_group import is_main

SHOWN = {"loss": "loss", "reward_mean": "reward", "learning_rate": "lr", "rows_per_s": "rows/s"}


class Progress:
    """A progress bar that counts steps, with lines above it. Only rank 0 shows it."""

    def __init__(self, step: int, max_steps: int):
        self.bar = tqdm(
            initial=step,
            total=max_steps,
            unit="step",
            mininterval=0.5
            if sys.stderr.isatty()
            else 30,  # seconds; long in a log file, so that it is not filled with bars
            disable=not is_main(),
        )
        self._noted: set[str] = set()

    def move_to(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Move the bar forward or back to `step`, and show some of its metrics."""
        if metrics is not None:
            shown = {short: f"{metrics[name]:.3g}" for name, short in SHOWN.items() if name in metrics}
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.bar.n)

    def write(self, line: str) -> None:
        """Print a line."""
        if is_main():
            self.bar.write(line, file=sys.stderr)

    def note_once(self, subject: str, line: str) -> None:
        """Print the line unless one about this subject was printed before."""
        if subject not in self._noted:
            self._noted.add(subject)
            self.write(line)

    def skip_time(self) -> None:
        """Exclude the time since the last step from the estimate of the remaining time."""
        self.bar.unpause()

    def close(self) -> None:
        self.bar.close()
