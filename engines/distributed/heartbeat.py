"""Heartbeats: if a rank fails or dies, the other ranks end too, with a message that names it.

The error of a collective says only "Connection closed by peer", and NCCL may hang instead. So a thread of every rank
writes a heartbeat with the rank's step to the rendezvous store. The first failure is written there too, and every rank
reads both.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed as dist  # takes seconds, and launch/cli/errors.py imports this module in every command

INTERVAL_S = 1.0  # between two heartbeats
SEARCH_S = 3.0  # how long a rank whose collective failed looks for the rank whose heartbeat has stopped
MAX_SILENCE_S = 180.0  # a silent rank counts as dead after this time, or after 0.6 timeout_s if that is less
ENDED = "ended"  # the heartbeat of a rank that has ended normally
COLLECTIVE_FAILED = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe|Timed out waiting", re.IGNORECASE)

OnLostRank = Callable[[str, bool], None]  # called with the error line and whether this rank must print it

_step = 0
_monitor: HeartbeatMonitor | None = None


def set_step(step: int) -> None:
    """Record that this rank works on `step`."""
    global _step
    _step = step


def start(store: dist.Store, rank: int, world_size: int, timeout_s: float, on_lost_rank: OnLostRank) -> None:
    """Start the heartbeat.

    A thread calls `on_lost_rank(line, report)` once another rank has failed or has been silent for too long. The call
    must end the process.
    """
    global _monitor
    stop()
    if world_size > 1:
        _monitor = HeartbeatMonitor(store, rank, world_size, timeout_s, on_lost_rank)
        _monitor.start()


def stop() -> None:
    """Stop the heartbeat: this rank ends normally, perhaps before the others."""
    global _monitor, _step
    if _monitor is not None:
        _monitor.stop()
    _monitor, _step = None, 0


def is_running() -> bool:
    """Whether this rank has a heartbeat and reads those of the others."""
    return _monitor is not None


def report_failure(error: BaseException, line: str) -> tuple[str, bool]:
    """Report to the other ranks that this rank fails with `error`, which `line` explains.

    Returns the line that names the first cause, which may be another rank, and whether this rank must print it
    (otherwise another rank of the same node does).
    """
    return (line, True) if _monitor is None else _monitor.report_failure(error, line)


def collective_failed(error: BaseException) -> bool:
    """Whether the error comes from a collective, so that another rank is probably the cause."""
    import torch.distributed as dist

    is_plain = type(error) is RuntimeError and COLLECTIVE_FAILED.search(str(error)) is not None
    return is_plain or isinstance(error, dist.DistError)


class HeartbeatMonitor:
    """The two threads of one rank.

    The heartbeat thread writes and reads the store. The watchdog thread decides, since a call to the store may hang.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_s: float, on_lost_rank: OnLostRank):
        self.rank, self.world_size, self.on_lost_rank = rank, world_size, on_lost_rank
        self.limit_s = min(MAX_SILENCE_S, 0.6 * timeout_s)
        # With the delays of both threads, a dead rank is still found within timeout_s.
        self.read_interval_s = self.limit_s / 6
        self.node = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')}"
        # One connection per thread, since a call may hang. `clone` is missing from the type stubs of torch.
        self.store, self.spare = store.clone(), store.clone()  # type: ignore[attr-defined]
        self.last_beats: dict[int, tuple[str, float]] = {}  # per rank: its last heartbeat, and when it was first read
        self.read_at = self.answered_at = time.monotonic()
        self.stopped = threading.Event()
        self.store.set(f"who/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self.store.set(f"beat/{rank}", "0 0")

    def start(self) -> None:
        """Wait for the first heartbeat of every rank, then start the threads."""
        self.store.wait([f"{key}/{rank}" for rank in range(self.world_size) for key in ("beat", "who")])
        self.who = [value.decode() for value in self.store.multi_get([f"who/{r}" for r in range(self.world_size)])]
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._heartbeat, self._watchdog)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, and report that this rank has ended normally."""
        self.stopped.set()
        for thread in self.threads:
            thread.join(1.0)
        self._run_in_time(lambda: self.spare.set(f"beat/{self.rank}", ENDED))

    def report_failure(self, error: BaseException, line: str) -> tuple[str, bool]:
        """Report the failure of this rank; see the function of the same name."""
        own_failure = f"rank {self.rank} ({self.who[self.rank]}) stopped at step {_step}: {line}"
        results: list[tuple[str, bool]] = []

        def find_and_record() -> None:
            cause = self._find_cause(error) if collective_failed(error) else own_failure
            first, report = self._record_failure(cause)
            results.append((line if first == own_failure else first, report))

        self._run_in_time(find_and_record, SEARCH_S + 3)
        self.stopped.set()
        return results[0] if results else (self._store_failure() if collective_failed(error) else line, True)

    def _run_in_time(self, work: Callable[[], None], timeout_s: float = 2.0) -> None:
        """Run `work`, which uses the store, and wait for it at most `timeout_s`."""

        def run_quietly() -> None:
            with suppress(RuntimeError):
                work()

        thread = threading.Thread(target=run_quietly, daemon=True)
        thread.start()
        thread.join(timeout_s)

    def _record_failure(self, line: str) -> tuple[str, bool]:
        """Record `line` as the failure of the run, unless there is one already. Returns the recorded line, and whether
        this rank must print it."""
        record = json.dumps([line, self.node, self.rank])
        first, node, reporter = json.loads(self.spare.compare_set("fault", "", record))
        return first, reporter == self.rank or node != self.node

    def _find_cause(self, error: BaseException) -> str:
        """Find out why a collective failed: another rank reported a failure, or its heartbeat has stopped."""
        earlier, deadline = self._read(self.spare), time.monotonic() + SEARCH_S
        while time.monotonic() < deadline:
            if self.spare.check(["fault"]):
                return json.loads(self.spare.get("fault"))[0]
            time.sleep(INTERVAL_S / 4)
        now = self._read(self.spare)
        others = {rank: beat for rank, beat in now.items() if beat != ENDED and rank != self.rank}
        if silent := [rank for rank, beat in others.items() if beat == earlier[rank]]:
            return f"{self._describe(silent, now)}, died or is cut off"
        behind = [rank for rank in others if _step_of(now[rank]) == min(map(_step_of, others.values()))]
        reason = " ".join(str(error).split()).split(". ")[0]
        slowest = self._describe(behind, now)
        return f"a collective failed although all ranks are alive ({reason}); furthest behind: {slowest}"

    def _heartbeat(self) -> None:
        count, next_read = 0, 0.0
        with suppress(RuntimeError):  # the store is gone: the watchdog notices
            while not self.stopped.wait(INTERVAL_S):
                count += 1
                self.store.set(f"beat/{self.rank}", f"{count} {_step}")
                if self.store.check(["fault"]):
                    line, node, _ = json.loads(self.store.get("fault"))
                    self._end(line, node != self.node)
                if time.monotonic() >= next_read:
                    next_read = time.monotonic() + self.read_interval_s
                    self._update(self._read(self.store))
                self.answered_at = time.monotonic()

    def _update(self, beats: dict[int, str]) -> None:
        now = time.monotonic()
        for rank, beat in beats.items():
            if rank not in self.last_beats or self.last_beats[rank][0] != beat:
                self.last_beats[rank] = (beat, now)
        self.read_at = now

    def _watchdog(self) -> None:
        misses = 0  # two in a row end the run: after one, this process itself may have been suspended
        while not self.stopped.wait(min(self.read_interval_s, INTERVAL_S)):
            is_store_silent = time.monotonic() - self.answered_at > self.limit_s
            old = {rank: beat for rank, (beat, since) in self.last_beats.items() if self.read_at - since > self.limit_s}
            silent = [rank for rank, beat in old.items() if beat != ENDED and rank != self.rank]
            misses = misses + 1 if is_store_silent or silent else 0
            if misses < 2:
                continue
            if is_store_silent:
                self._end(self._store_failure(), True)
            else:
                line = f"nothing heard for {self.limit_s:.0f} s of {self._describe(silent, old)}"
                results = [(line, True)]
                self._run_in_time(lambda: results.append(self._record_failure(line)))  # noqa: B023
                self._end(*results[-1])

    def _end(self, line: str, report: bool) -> None:
        if not self.stopped.is_set():
            self.stopped.set()
            self.on_lost_rank(line, report)

    def _store_failure(self) -> str:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        return (
            f"the store at {address}, on the node of rank 0, does not answer: that node is down or cut off; this is "
            f"rank {self.rank} ({self.who[self.rank]}), at step {_step}"
        )

    def _read(self, store: dist.Store) -> dict[int, str]:
        values = store.multi_get([f"beat/{rank}" for rank in range(self.world_size)])
        return {rank: value.decode() for rank, value in enumerate(values)}

    def _describe(self, ranks: list[int], beats: dict[int, str]) -> str:
        """Name the first of `ranks`, with their hosts and last steps."""
        described = [f"rank {rank} ({self.who[rank]}), last at step {_step_of(beats[rank])}" for rank in ranks[:4]]
        return "; ".join(described) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")


def _step_of(beat: str) -> int:
    return int(beat.split()[1])
