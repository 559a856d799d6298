"""What the collectives of a step carry: the bytes of each, by name, and how long this rank was in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from engines.distributed.process_group import world_size


@dataclass
class _Sums:
    sent: float = 0.0
    received: float = 0.0
    seconds: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)  # around those of a GPU


_sums: dict[str, _Sums] = {}


def start_counting() -> None:
    """Forget what was counted: a step begins."""
    _sums.clear()


@contextmanager
def counted(name: str, *, sent: float, received: float, device: torch.device) -> Iterator[None]:
    """Count a collective that is made inside: bytes that go to other ranks, and that come from them.

    On a GPU the time is that between two events of its stream, which nobody waits for; on the host it is that of the
    call, which contains the waiting for other ranks.
    """
    sums = _sums.setdefault(name, _Sums())
    sums.sent += sent
    sums.received += received
    if device.type != "cuda":
        started = time.perf_counter()
        yield
        sums.seconds += time.perf_counter() - started
        return
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    yield
    end.record()
    sums.events.append((begin, end))


def gathered(nbytes: int) -> dict[str, float]:
    """The bytes of an all-gather, of which each rank has `nbytes`."""
    others = world_size() - 1
    return {"sent": nbytes * others, "received": nbytes * others}


def reduced(nbytes: int) -> dict[str, float]:
    """The bytes of an all-reduce of `nbytes` in a ring: each rank sends and receives the sums of all parts but one, and
    the results of as many."""
    share = 2 * (world_size() - 1) / world_size()
    return {"sent": nbytes * share, "received": nbytes * share}


def scattered(nbytes: int) -> dict[str, float]:
    """The bytes of a reduce-scatter (or of a reduce to one rank, on average) of `nbytes` in a ring."""
    share = (world_size() - 1) / world_size()
    return {"sent": nbytes * share, "received": nbytes * share}


def traffic_statistics() -> dict[str, float]:
    """The bytes sent and received, and the seconds, of each collective since `start_counting`, by "traffic/NAME_WHAT";
    nothing for a single process. Seconds of a GPU are those of collectives that have ended."""
    found = {}
    for name, sums in _sums.items() if world_size() > 1 else ():
        ended = sum(begin.elapsed_time(end) for begin, end in sums.events if end.query()) / 1000
        found[f"traffic/{name}_sent_bytes"] = sums.sent
        found[f"traffic/{name}_received_bytes"] = sums.received
        found[f"traffic/{name}_s"] = sums.seconds + ended
    return found
