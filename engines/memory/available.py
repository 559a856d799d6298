"""The memory that is left for the activations of this rank: of its GPU, or of the node that its ranks share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from engines.distributed.process_group import world_size

# Bytes that glibc's heap grows by per byte of live tensors in training. An aligned block that is freed is often a few
# bytes too small for the next tensor of the same size. It is chosen on the runs of benchmarks/plan_accuracy.py, which
# take 1.2 (chunks of one shape) to 1.6.
TRAINING_HEAP = 1.4
GPU_RESERVE = 0.1  # of a GPU: fragments of the allocator, workspaces of kernels
CPU_SHARE = 0.7  # of a node's free memory that is used: other programs grow too, and the kernel kills without a word


def available_bytes(device: torch.device) -> float:
    """The bytes of tensors that this rank may still allocate, a safety margin left out.

    Raises ValueError if the system does not say how much memory is free.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached - GPU_RESERVE * total
    free_bytes = node_bytes()
    if free_bytes is None:
        raise ValueError(
            "trainer.kept_chunks=auto: this system does not say how much memory is free (Linux does): set a number"
        )
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))  # set by torchrun
    return CPU_SHARE * free_bytes / (TRAINING_HEAP * ranks)


def node_bytes(root: Path = Path("/")) -> int | None:
    """The free memory of this node, or what the limit of a container leaves, if that is less; None: not known."""
    file = root / "proc/meminfo"
    lines = file.read_text().splitlines() if file.is_file() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(free + list(_left_by_limits(root)), default=None)


def _left_by_limits(root: Path) -> Iterator[int]:
    """What the limit of each control group (versions 1 and 2) that holds this process leaves."""
    file = root / "proc/self/cgroup"
    for line in file.read_text().splitlines() if file.is_file() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = base / path.lstrip("/")  # in a container this may not be visible, and `base` is the container's own
        for folder in (own, *(parent for parent in own.parents if parent == base or base in parent.parents)):
            numbers = [_number(folder / name) for name in (limit, used)]
            if numbers[0] is not None and numbers[1] is not None:
                yield max(numbers[0] - numbers[1] + _cached_files(folder / "memory.stat"), 0)


def _number(file: Path) -> int | None:
    """The number in a file; None if there is none ("max": no limit)."""
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdecimal() else None


def _cached_files(file: Path) -> int:
    """Bytes of a group that the kernel frees when they are needed: files that were read and are not in use."""
    lines = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
    found = {name: int(value) for name, value in lines}
    return found.get("total_inactive_file", found.get("inactive_file", 0))
