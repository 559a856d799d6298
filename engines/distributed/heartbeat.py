"""Which ranks are alive and how far they are, so that one that fails or dies ends the others, by name.

A collective that fails says "Connection closed by peer", or hangs in NCCL. So every rank writes a heartbeat with its
step to the rendezvous store, from a thread, and the first failure too; the others read both.
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
    import torch.distributed as dist  # takes seconds; launch/cli/errors.py imports this module in every command

BEAT_S = 1.0
LOOK_S = 3.0  # how long a rank whose connection broke looks for the heartbeat that has stopped
SILENCE_S = 180.0  # a rank is given up after that, or 0.6 timeout_s if this is less
LEFT = "left"  # the heartbeat of a rank that has ended in order
COLLECTIVE_FAILED = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe|Timed out waiting", re.IGNORECASE)

OnLostRank = Callable[[str, bool], None]  # the line that says why, and whether this rank is to print it

_step = 0
_watch: Watch | None = None


def at(step: int) -> None:
    """This rank works on `step`."""
    global _step
    _step = step


def watch(store: dist.Store, rank: int, world_size: int, timeout_s: float, on_lost_rank: OnLostRank) -> None:
    """Start the heartbeat. A thread calls `on_lost_rank(line, report)` once another rank has failed, or has been silent
    for too long; it must end the process."""
    global _watch
    leave()
    if world_size > 1:
        _watch = Watch(store, rank, world_size, timeout_s, on_lost_rank)
        _watch.start()


def leave() -> None:
    """This rank ends in order, perhaps before others."""
    global _watch, _step
    if _watch is not None:
        _watch.leave()
    _watch, _step = None, 0


def watching() -> bool:
    """Whether this rank and the others watch each other."""
    return _watch is not None


def report_failure(error: BaseException, line: str) -> tuple[str, bool]:
    """Tell the others that this rank ends by `error`, which `line` explains. Returns the line that names the first
    cause, perhaps another rank, and whether this rank is to print it (else another one of this node does)."""
    return (line, True) if _watch is None else _watch.report_failure(error, line)


def collective_failed(error: BaseException) -> bool:
    """Whether the error is that of a collective: another rank's fault, most likely."""
    import torch.distributed as dist

    is_plain = type(error) is RuntimeError and COLLECTIVE_FAILED.search(str(error)) is not None
    return is_plain or isinstance(error, dist.DistError)


class Watch:
    """The threads of one rank: the heartbeat writes and reads, the watchdog decides, since the store may not answer the
    first."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_s: float, on_lost_rank: OnLostRank):
        self.rank, self.world_size, self.on_lost_rank = rank, world_size, on_lost_rank
        self.limit_s = min(SILENCE_S, 0.6 * timeout_s)
        self.look_s = self.limit_s / 6  # with both threads' delays a rank is given up within timeout_s
        self.node = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')}"
        # One connection a thread, since a call may hang; `clone` is missing from the stubs of torch.
        self.store, self.spare = store.clone(), store.clone()  # type: ignore[attr-defined]
        self.seen: dict[int, tuple[str, float]] = {}  # the last heartbeat and when it was first read
        self.read_at = self.answered = time.monotonic()
        self.stopped = threading.Event()
        self.store.set(f"who/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self.store.set(f"beat/{rank}", "0 0")

    def start(self) -> None:
        self.store.wait([f"{key}/{rank}" for rank in range(self.world_size) for key in ("beat", "who")])
        self.who = [value.decode() for value in self.store.multi_get([f"who/{r}" for r in range(self.world_size)])]
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._heartbeat, self._watchdog)]
        for thread in self.threads:
            thread.start()

    def leave(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(1.0)
        self._in_time(lambda: self.spare.set(f"beat/{self.rank}", LEFT))

    def report_failure(self, error: BaseException, line: str) -> tuple[str, bool]:
        own = f"rank {self.rank} ({self.who[self.rank]}) stopped at step {_step}: {line}"
        found: list[tuple[str, bool]] = []

        def decide() -> None:
            cause = self._find_cause(error) if collective_failed(error) else own
            first, report = self._announce(cause)
            found.append((line if first == own else first, report))

        self._in_time(decide, LOOK_S + 3)
        self.stopped.set()
        return found[0] if found else (self._store_silent() if collective_failed(error) else line, True)

    def _in_time(self, work: Callable[[], None], timeout_s: float = 2.0) -> None:
        """Run `work`, which asks the store, and do not wait for it longer than that."""

        def try_it() -> None:
            with suppress(RuntimeError):
                work()

        thread = threading.Thread(target=try_it, daemon=True)
        thread.start()
        thread.join(timeout_s)

    def _announce(self, line: str) -> tuple[str, bool]:
        """Make `line` the run's failure, unless it has one. Returns that, and whether this rank is to print it."""
        record = json.dumps([line, self.node, self.rank])
        first, node, reporter = json.loads(self.spare.compare_set("fault", "", record))
        return first, reporter == self.rank or node != self.node

    def _find_cause(self, error: BaseException) -> str:
        """After a collective failed: another rank's failure, or the rank whose heartbeat stands still."""
        earlier, deadline = self._read(self.spare), time.monotonic() + LOOK_S
        while time.monotonic() < deadline:
            if self.spare.check(["fault"]):
                return json.loads(self.spare.get("fault"))[0]
            time.sleep(BEAT_S / 4)
        now = self._read(self.spare)
        others = {rank: beat for rank, beat in now.items() if beat != LEFT and rank != self.rank}
        if still := [rank for rank, beat in others.items() if beat == earlier[rank]]:
            return f"{self._named(still, now)}, died or is cut off"
        behind = [rank for rank in others if _step_of(now[rank]) == min(map(_step_of, others.values()))]
        reason = " ".join(str(error).split()).split(". ")[0]
        return f"a collective failed though all ranks live ({reason}); furthest behind: {self._named(behind, now)}"

    def _heartbeat(self) -> None:
        count, look_at = 0, 0.0
        with suppress(RuntimeError):  # the store is gone: the watchdog notices
            while not self.stopped.wait(BEAT_S):
                count += 1
                self.store.set(f"beat/{self.rank}", f"{count} {_step}")
                if self.store.check(["fault"]):
                    line, node, _ = json.loads(self.store.get("fault"))
                    self._finish(line, node != self.node)
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self.look_s
                    self._update(self._read(self.store))
                self.answered = time.monotonic()

    def _update(self, beats: dict[int, str]) -> None:
        now = time.monotonic()
        for rank, beat in beats.items():
            if rank not in self.seen or self.seen[rank][0] != beat:
                self.seen[rank] = (beat, now)
        self.read_at = now

    def _watchdog(self) -> None:
        misses = 0  # two in a row: this process may itself have been asleep
        while not self.stopped.wait(min(self.look_s, BEAT_S)):
            is_deaf = time.monotonic() - self.answered > self.limit_s
            seen = {rank: beat for rank, (beat, since) in self.seen.items() if self.read_at - since > self.limit_s}
            silent = [rank for rank, beat in seen.items() if beat != LEFT and rank != self.rank]
            misses = misses + 1 if is_deaf or silent else 0
            if misses < 2:
                continue
            if is_deaf:
                self._finish(self._store_silent(), True)
            else:
                line = f"nothing heard for {self.limit_s:.0f} s of {self._named(silent, seen)}"
                answer = [(line, True)]
                self._in_time(lambda: answer.append(self._announce(line)))  # noqa: B023
                self._finish(*answer[-1])

    def _finish(self, line: str, report: bool) -> None:
        if not self.stopped.is_set():
            self.stopped.set()
            self.on_lost_rank(line, report)

    def _store_silent(self) -> str:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        return (
            f"the store at {address}, on the node of rank 0, does not answer: that node is down or cut off; this is "
            f"rank {self.rank} ({self.who[self.rank]}), at step {_step}"
        )

    def _read(self, store: dist.Store) -> dict[int, str]:
        values = store.multi_get([f"beat/{rank}" for rank in range(self.world_size)])
        return {rank: value.decode() for rank, value in enumerate(values)}

    def _named(self, ranks: list[int], beats: dict[int, str]) -> str:
        """The first of them with where they run, and their last steps."""
        named = [f"rank {rank} ({self.who[rank]}), last at step {_step_of(beats[rank])}" for rank in ranks[:4]]
        return "; ".join(named) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")


def _step_of(beat: str) -> int:
    return int(beat.split()[1])
