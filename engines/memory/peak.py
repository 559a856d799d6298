"""The peak memory of a piece of work, beside what the process holds before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.memory.allocator import peak_memory_bytes, resident_bytes, return_freed_memory


@dataclass
class PeakMemory:
    """What `watch_memory` has found: `rise` in bytes above what was held at the start, and on a GPU `peak`, with all
    that was on it (0 on a CPU)."""

    rise: int = 0
    peak: int = 0


@contextmanager
def watch_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Find the peak memory of the work in this context, which is known at its end.

    On a GPU it is that of torch's tensors. On a CPU it is that of the resident process. Linux can set the highest mark
    back; elsewhere the rise is 0 if the process has once been larger.
    """
    found = PeakMemory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        torch.cuda.synchronize(device)
        found.peak = torch.cuda.max_memory_allocated(device)
        found.rise = found.peak - before
        return
    return_freed_memory()
    _set_mark_back()
    before = resident_bytes()
    yield found
    found.rise = max(0, (_mark() or peak_memory_bytes()) - before)


def _set_mark_back() -> None:
    """Make the highest mark of the resident memory that of now (proc(5): 5 in clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed
        return


def _mark() -> int | None:
    """The highest mark of the resident memory (VmHWM) in bytes; None if the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
