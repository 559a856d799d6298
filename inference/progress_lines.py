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


def show_progress(items: Iterable[T], what: str, total: int, unit: str = "batch") -> Iterator[T]:
    """Yield `items`, of which there are `total`, and show how far the caller is. A loop of a few seconds shows
    nothing."""
    if not is_main():
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, delay=BAR_AFTER_S, leave=False)
    else:
        yield from _with_lines(items, what, total, unit)


def _with_lines(items: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    started = reported = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - reported >= LINE_EVERY_S:
            reported, left_s = now, (now - started) / done * (total - done)
            left = f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
            print(f"{what}: {done:,} of {total:,} {unit}es, about {left} left", file=sys.stderr, flush=True)
        yield item
