"""The memory of this process: how much it took at most, and glibc's habit of giving it back."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse freed tensors instead of returning them to the kernel (CPU training on Linux only).

    By default each large tensor is mapped anew and its pages are faulted in and zeroed one by one, at every step.
    Without mappings and trimming the heap stays as large as the largest step. Elsewhere nothing happens.
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give all freed pages back to the kernel (CPU training on Linux only).

    Chunks of many shapes leave holes in the heap that the next chunk's tensors just miss; where memory is bounded by
    recomputing chunks, that bound is worth the page faults.
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's or the CPU's allocator has refused."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def allocator_says(error: BaseException) -> str:
    """The sentence of such an error that says how much was asked for."""
    sentences = " ".join(str(error).split()).split(". ")
    return next((sentence for sentence in sentences if "allocate" in sentence), sentences[0])


def peak_memory_bytes() -> int:
    """The most this process has held: on the GPU where there is one, else resident in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """What this process holds in memory now (Linux; elsewhere the most that it has held)."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
