"""What long steps show of themselves: on a terminal a bar with the time left, in a log file a line now and then.

A step of less than AFTER_S seconds shows nothing. Bars and lines go to stderr, so that stdout has results alone. On the
terminal there is one bar at a time, that of the step which moves; its title names the steps around it ("mining 3/20,
scoring"). Whoever prints a line while a bar may be there uses `write`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from time import monotonic
from typing import TypeVar

AFTER_S = 3.0
REDRAW_S = 0.2  # between two states of a bar
LINE_EVERY_S = 30.0
COLUMNS = 80  # of a terminal that does not say how many it has
CLEAR = "\r\x1b[K"  # the last line of the terminal

T = TypeVar("T")


class Terminal:
    """The state of this process's stderr: the steps that have begun and not ended, and whether a bar is drawn."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []
        self.is_drawn = False
        self.makers = 0  # of what other ranks wait for

    @property
    def is_shown(self) -> bool:
        """Whether this process shows its steps: rank 0, and one that the others wait for."""
        return self.makers > 0 or os.environ.get("RANK", "0") == "0"

    def draw(self, bar: str) -> None:
        sys.stderr.write(f"\r{bar}\x1b[K")
        sys.stderr.flush()
        self.is_drawn = True

    def clear(self) -> None:
        """Remove the bar, so that a line can be printed."""
        if self.is_drawn:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
            self.is_drawn = False

    def redraw(self) -> None:
        """Draw the bar of the innermost step that has one, after a line or the end of a step within it."""
        if not self.is_drawn:
            for step in reversed(self.steps):
                if step.has_bar:
                    self.draw(step.bar())
                    return

    def forget(self) -> None:
        """Forget the steps of the process that this one was forked from: they move there alone."""
        self.steps = []


terminal = Terminal()
os.register_at_fork(after_in_child=terminal.forget)


class Progress:
    """How far a step of the work is: `done` of `total` units, or of a number that is not known (None).

    The rate and the time left are those of the units that were done since it began, or that a resumed step found done
    (`done`), without the time of `paused`. One of which nothing is ever done names the steps within it.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "", done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.first = done
        self.note = ""  # shown at the end
        self.started = self.shown = monotonic()
        self.paused_at: float | None = None
        self.is_drawn = False  # a bar of it has been

    def __enter__(self) -> Progress:
        terminal.steps.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int = 1) -> None:
        """Note that `count` more units are done."""
        self.move_to(self.done + count)

    def move_to(self, done: int) -> None:
        """Note that `done` units are done; fewer than before if some are done again."""
        self.first -= max(self.done - done, 0)
        self.done = done if self.total is None else min(done, self.total)
        now = monotonic()
        if now - self.started < AFTER_S or now - self.shown < self.every_s or not self.is_shown:
            return
        is_done = self.done == self.total
        self.shown = now
        if self.on_terminal and (self.is_drawn or not is_done):
            self.is_drawn = True
            terminal.draw(self.bar())
        elif not self.on_terminal and not is_done:
            print(self.line(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the step. The bar of the one around it comes back."""
        if self in terminal.steps:
            terminal.steps.remove(self)
        if self.is_drawn:
            terminal.clear()
            terminal.redraw()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the rate and of the time left. Steps within it have titles of their
        own."""
        if self.paused_at is not None:
            yield
            return
        self.paused_at = monotonic()
        try:
            yield
        finally:
            seconds = monotonic() - self.paused_at
            self.started, self.shown, self.paused_at = self.started + seconds, self.shown + seconds, None
            terminal.redraw()

    @cached_property
    def is_shown(self) -> bool:
        return terminal.is_shown

    @cached_property
    def on_terminal(self) -> bool:
        return self.is_shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @cached_property
    def every_s(self) -> float:
        return REDRAW_S if self.on_terminal else LINE_EVERY_S

    @property
    def has_bar(self) -> bool:
        """Whether a bar of it may be drawn now."""
        is_long = monotonic() - self.started >= AFTER_S
        return is_long and self.on_terminal and self.paused_at is None and self.done > self.first

    @property
    def title(self) -> str:
        """What it is, after the steps around it."""
        around = terminal.steps[: terminal.steps.index(self)] if self in terminal.steps else []
        return ", ".join([*(step.place for step in around if step.paused_at is None), self.what])

    @property
    def place(self) -> str:
        """What it is, with the unit that is worked on if there are several."""
        many = self.total is not None and self.total > 1
        return f"{self.what} {min(self.done + 1, self.total or 0):,}/{self.total:,}" if many else self.what

    @property
    def seconds_each(self) -> float:
        """The seconds of a unit."""
        return (monotonic() - self.started) / max(self.done - self.first, 1)

    def bar(self) -> str:
        """The bar, as wide as the terminal."""
        from tqdm import tqdm  # here, since every command imports this file, also for its --help

        counts = f"{self.done:,} {self.unit}" if self.total is None else f"{self.done:,}/{self.total:,} {self.unit}"
        end = ", ".join(part for part in (rate(self.seconds_each), self.note) if part)
        left = "" if self.total is None else "<{remaining}"
        form = f"{counts} [{{elapsed}}{left}, {end}]"
        form = f"{{desc}}: {form}" if self.total is None else f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {form}"
        columns = width() - 1  # else some terminals begin a new line
        utf = "utf" in (getattr(sys.stderr, "encoding", None) or "").lower()
        options = {"initial": self.first, "prefix": self.title, "ncols": columns, "bar_format": form, "ascii": not utf}
        elapsed = monotonic() - self.started
        return tqdm.format_meter(self.done, self.total, elapsed, **options)[:columns]

    def line(self) -> str:
        """The line of a log file."""
        end = f", {self.note}" if self.note else ""
        if self.total is None:
            return f"{self.title}: {self.done:,} {self.unit}, {rate(self.seconds_each)}{end}"
        left = duration(self.seconds_each * (self.total - self.done))
        counts = f"{self.done:,} of {self.total:,} {self.unit}"
        return f"{self.title}: {counts}, {rate(self.seconds_each)}, about {left} left{end}"


def show_progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "batches") -> Iterator[T]:
    """Yield `items`, of which there are `total` (None: it is not known), and show how far the caller is."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def write(line: str) -> None:
    """Print a line to stderr on rank 0, above the bar if there is one."""
    if terminal.is_shown:
        write_above(line)


def write_above(line: str) -> None:
    """Print a line to stderr on this rank, above the bar if there is one."""
    terminal.clear()
    print(line, file=sys.stderr, flush=True)
    terminal.redraw()


class LogHandler(logging.Handler):
    """Prints what is logged above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_above(self.format(record))
        except Exception:  # as logging's own handlers do: what is logged never ends a run
            self.handleError(record)


@contextmanager
def making() -> Iterator[None]:
    """Show the steps of this process within the block whatever its rank: it makes what the other ranks wait for."""
    terminal.makers += 1
    try:
        yield
    finally:
        terminal.makers -= 1


def rate(seconds_each: float) -> str:
    """The units per second, or the seconds of one if there is less than one per second."""
    if seconds_each > 1:
        return f"{seconds_each:,.1f} s each"
    per_second = 1 / max(seconds_each, 1e-9)
    return f"{per_second:,.1f}/s" if per_second < 100 else f"{per_second:,.0f}/s"


def duration(seconds: float) -> str:
    """A time in its largest unit.

    >>> duration(89), duration(150), duration(5000)
    ('89 s', '2 min', '1.4 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def width() -> int:
    """The columns of the terminal that stderr is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except (OSError, ValueError):
        return COLUMNS
