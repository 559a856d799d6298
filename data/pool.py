"""Processes that share the work on a large corpus, and end with the process that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

PR_SET_PDEATHSIG = 1  # sys/prctl.h

Given = TypeVar("Given")
Made = TypeVar("Made")

_shared: tuple[Any, ...] = ()  # in a worker: what `start` returned


def map_in_processes(
    work: Callable[[Any, Given], Made], parts: Iterable[Given], start: Callable[..., Any], *arguments: Any
) -> Iterator[Made]:
    """Yield `work(start(*arguments), part)` for each part, in order, by a process per usable core. `start` runs once in
    each.

    Raises ValueError if one of them is killed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")  # no copy of threads and locks
    with ProcessPoolExecutor(cores, context, initializer=_start, initargs=(work, start, arguments)) as pool:
        try:
            yield from pool.map(_work, parts)
        except BrokenProcessPool:
            raise ValueError(
                "data: a process that reads the data was ended from outside, often for lack of memory; the same "
                "command goes on where it was"
            ) from None


def end_with_parent() -> None:
    """Let the kernel (Linux) kill this process when the one that started it ends: nobody waits for its result then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(work: Callable[..., Any], start: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _shared
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it ends it
    _shared = (work, start(*arguments))


def _work(part: Any) -> Any:
    work, given = _shared
    return work(given, part)
