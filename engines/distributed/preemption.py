"""Preemption: SIGTERM and SIGUSR1 ask a run to stop. All ranks stop at the same step, and the run can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

REQUEUE = 75  # the exit status of a preempted rank: EX_TEMPFAIL of sysexits.h, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
BEFORE_TRAINING = "before training began"


@dataclass
class State:
    """The signal handling of this process."""

    deferred: bool = False  # whether a signal is only recorded, until all ranks know of it
    received: str | None = None  # the name of the signal that this rank has received
    agreed: bool = False  # whether all ranks know of a signal


_state = State()


class Preempted(Exception):
    """A signal has stopped the run. `where` names the place, such as "at step 3". The exit status is REQUEUE."""

    def __init__(self, where: str):
        super().__init__(f"preempted by {_state.received or 'a signal to another rank'} {where}")


@contextmanager
def handle_signals() -> Iterator[None]:
    """A context in which a signal raises `Preempted` in the main thread or, after `defer_signals`, is only recorded."""
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


def defer_signals() -> None:
    """Only record a signal from now on: if one rank stopped alone, the others would wait for it.

    Raises `Preempted` if a signal has already been received.
    """
    if _state.received is not None:
        raise Preempted(BEFORE_TRAINING)
    _state.deferred = True


def requested() -> bool:
    """Whether this rank has received a signal."""
    return _state.received is not None


def set_agreed() -> None:
    """Record that all ranks know of a signal. `collectives.all_agree` calls it on every rank at once."""
    _state.agreed = True


def agreed() -> bool:
    """Whether all ranks know of a signal. It becomes true on all ranks in the same call of `all_agree`."""
    return _state.agreed


def _receive(number: int, frame: FrameType | None) -> None:
    _state.received = signal.Signals(number).name
    if not _state.deferred:
        raise Preempted(BEFORE_TRAINING)
