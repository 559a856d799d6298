"""Preemption: SIGTERM and SIGUSR1 ask a run to stop, and all its ranks do, at one place, to be started again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75  # the exit status of a rank that was preempted: EX_TEMPFAIL of sysexits.h, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
BEFORE = "before training began"

_deferred = False  # whether a signal waits for the ranks' agreement
_received: str | None = None  # the name of the signal that reached this rank
_agreed = False


class Preempted(Exception):
    """A signal asked the run to stop, `where` it stands now. Ends the process with status REQUEUE."""

    def __init__(self, where: str):
        super().__init__(f"preempted by {_received or 'a signal to another rank'} {where}")


@contextmanager
def handled() -> Iterator[None]:
    """Inside, a signal raises `Preempted` in the main thread; after `defer`, it waits until all ranks know of it."""
    global _deferred, _received, _agreed
    _deferred, _received, _agreed = False, None, False
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, _receive) for number in SIGNALS} if is_main_thread else {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _deferred, _received, _agreed = False, None, False


def defer() -> None:
    """From now on other ranks would wait for this one: a signal is only remembered. Raises `Preempted` if one came."""
    global _deferred
    if _received is not None:
        raise Preempted(BEFORE)
    _deferred = True


def requested() -> bool:
    """Whether a signal has reached this rank."""
    return _received is not None


def agree() -> None:
    """Called on every rank once `collectives.all_agree` has told them of a signal that reached one."""
    global _agreed
    _agreed = True


def agreed() -> bool:
    """Whether all ranks know of a signal; true on all of them from the same agreement on."""
    return _agreed


def _receive(number: int, frame: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number).name
    if not _deferred:
        raise Preempted(BEFORE)
