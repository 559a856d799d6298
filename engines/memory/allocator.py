"""The memory of this process: its peak, and whether glibc returns freed memory to the kernel."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors instead of returning it to the kernel.

    By default glibc maps every large tensor again at every step; each of its pages then causes a page fault and is
    zeroed. Without mapping and trimming the heap stays as large as the largest step needs. This has an effect on
    Linux without a GPU only.
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return all freed pages to the kernel. This has an effect on Linux without a GPU only.

    Chunks of many shapes leave holes in the heap that are too small for the tensors of the next chunk. If chunks are
    recomputed to limit memory, the lower peak is worth the page faults.
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the allocator of a GPU or of the CPU was out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def allocator_message(error: BaseException) -> str:
    """The sentence of an out-of-memory error that names the requested size."""
    sentences = " ".join(str(error).split()).split(". ")
    return next((sentence for sentence in sentences if "allocate" in sentence), sentences[0])


def peak_memory_bytes() -> int:
    """The peak memory of this process: on the GPU if there is one, else its resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """The resident memory of this process now. Only Linux reports it; elsewhere it is the peak."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
