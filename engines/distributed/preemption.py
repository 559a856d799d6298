"""Preemption: SIGTERM, SIGUSR1 and Ctrl-C ask a run to stop. All ranks stop at the same step, and the run can be
resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

INTERRUPTED = 130  # the exit status after Ctrl-C
REQUEUE = 75  # the exit status of a preempted rank: EX_TEMPFAIL of sysexits.h, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
BEFORE_TRAINING = "before training began"
ANNOUNCEMENT = b"\nstopping after this step, with a checkpoint; Ctrl-C again ends at once\n"
REPEATED_S = 0.5  # signals within this time are one Ctrl-C: a terminal and a launcher may both pass it on


@dataclass
class State:
    """The signal handling of this process."""

    process: int = field(default_factory=os.getpid)
    deferred: bool = False  # whether a signal is only recorded, until all ranks know of it
    received: str | None = None  # the name of the first signal that this rank has received
    received_at: float = 0.0  # when, by time.monotonic
    agreed: bool = False  # whether all ranks know of a signal


_state = State()


class Preempted(Exception):
    """A signal has stopped the run. `where` names the place, such as "at step 3"."""

    def __init__(self, where: str):
        self.by_user = _state.received == signal.SIGINT.name  # by Ctrl-C: no job that is to be requeued
        self.exit_status = INTERRUPTED if self.by_user else REQUEUE
        cause = f"preempted by {_state.received or 'a signal to another rank'}"
        super().__init__(f"{'interrupted' if self.by_user else cause} {where}")


@contextmanager
def handle_signals() -> Iterator[None]:
    """A context in which a signal raises `Preempted` in the main thread or, after `defer_signals`, is only recorded.

    Ctrl-C (SIGINT) is recorded in the same way. Before `defer_signals`, and if it is repeated, it does what it did
    outside of this context.
    """
    global _state
    _state = State()
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, _receive) for number in SIGNALS}
        previous[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        if callable(at_once := previous[signal.SIGINT]):
            signal.signal(signal.SIGINT, partial(_receive_interrupt, at_once))
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
    _record(number)
    if not _state.deferred:
        raise Preempted(BEFORE_TRAINING)


def _receive_interrupt(at_once: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None) -> None:
    """Record Ctrl-C, or call `at_once` if no training is going on or if it is repeated."""
    if os.getpid() != _state.process:  # a data worker that has just been forked
        return
    is_repeated = _state.received is not None and time.monotonic() - _state.received_at > REPEATED_S
    if not _state.deferred or is_repeated:
        at_once(number, frame)
    elif _state.received is None:
        _record(number)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.write(2, ANNOUNCEMENT)  # print may not be called again while it runs


def _record(number: int) -> None:
    if _state.received is None:
        _state.received, _state.received_at = signal.Signals(number).name, time.monotonic()
