"""What rank 0 shows of a long loop: a bar on a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from engines.distributed.process_group import is_main

BAR_AFTER_S = 2.0
LINE_EVERY_S = 30.0

T = TypeVar("T")


class Progress:
    """How far a long loop over `total` units is; `done` of them were there already. A loop of a few seconds shows
    nothing."""

    def __init__(self, what: str, total: int, unit: str = "batches", done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.first = done
        self.started = self.reported = time.monotonic()
        on_terminal = is_main() and sys.stderr.isatty()
        options = {"initial": done, "unit": f" {unit}", "delay": BAR_AFTER_S, "leave": False}
        self.bar = tqdm(desc=what, total=total, **options) if on_terminal else None

    def advance(self, count: int = 1) -> None:
        """Note that `count` more units are done."""
        self.done = min(self.done + count, self.total)
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)
        elif is_main() and self.first < self.done < self.total and now - self.reported >= LINE_EVERY_S:
            self.reported, left_s = now, (now - self.started) / (self.done - self.first) * (self.total - self.done)
            left = f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
            line = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, about {left} left"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def show_progress(items: Iterable[T], what: str, total: int, unit: str = "batches") -> Iterator[T]:
    """Yield `items`, of which there are `total`, and show how far the caller is."""
    progress = Progress(what, total, unit)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.close()
