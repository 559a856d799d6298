"""Preemption: SIGTERM and SIGUSR1 ask a run to stop, and all its ranks do, at one place, to be started again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

REQUEUE = 75  # the exit status of a rank that was preempted: EX_TEMPFAIL of sysexits.h, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
BEFORE = "before training began"


@dataclass
class State:
    """How far this process is on its way to stop."""

    deferred: bool = False  # whether a signal waits for the ranks' agreement
    received: str | None = None  # the name of the signal that reached this rank
    agreed: bool = False  # whether all ranks know of a signal


_state = State()


class Preempted(Exception):
    """A signal asked the run to stop, `where` it stands now. Ends the process with status REQUEUE."""

    def __init__(self, where: str):
        super().__init__(f"preempted by {_state.received or 'a signal to another rank'} {where}")


@contextmanager
def handled() -> Iterator[None]:
    """Inside, a signal raises `Preempted` in the main thread; after `defer`, it waits until all ranks know of it."""
    global _state
    _state = State()
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, _receive) for number in SIGNALS} if is_main_thread else {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _state = State()


def defer() -> None:
    """Only remember a signal from now on: other ranks would wait for this one. Raises `Preempted` if one has come."""
    if _state.received is not None:
        raise Preempted(BEFORE)
    _state.deferred = True


def requested() -> bool:
    """Whether a signal has reached this rank."""
    return _state.received is not None


def agree() -> None:
    """Called on every rank once `collectives.all_agree` has told them of a signal that reached one."""
    _state.agreed = True


def agreed() -> bool:
    """Whether all ranks know of a signal; true on all of them from the same agreement on."""
    return _state.agreed


def _receive(number: int, frame: FrameType | None) -> None:
    _state.received = signal.Signals(number).name
    if not _state.deferred:
        raise Preempted(BEFORE)
