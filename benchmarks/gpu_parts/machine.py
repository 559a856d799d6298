"""The machine: what it is, and the highest speed of its matrix products."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "numpy", "sentence-transformers", "deepspeed", "peft", "flash-attn", "triton")


def device(toy: bool) -> torch.device:
    """The first GPU, or the CPU for toy sizes. Raises RuntimeError if there is no GPU."""
    if toy:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU: --cpu runs everything at toy sizes")
    return torch.device("cuda", 0)


def now(toy: bool) -> float:
    """Seconds, once the device has done what it was given."""
    if not toy:
        torch.cuda.synchronize()
    return time.perf_counter()


def describe(toy: bool) -> dict[str, Any]:
    """The card, the driver and the versions."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "platform": platform.platform(), "versions": {}}
    for package in PACKAGES:
        try:
            found["versions"][package] = version(package)
        except PackageNotFoundError:
            found["versions"][package] = None
    found["cuda"] = torch.version.cuda
    if toy:
        return found | {"card": None, "threads": torch.get_num_threads()}
    card = torch.cuda.get_device_properties(device(toy))
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        found["nvidia_smi"] = f"not known: {error}"
    return found | {
        "card": card.name,
        "cards": torch.cuda.device_count(),
        "capability": f"{card.major}.{card.minor}",
        "memory_gib": round(card.total_memory / 2**30, 1),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def matmul_peak(toy: bool) -> dict[str, Any]:
    """The highest speed of bf16 matrix products [n, n] @ [n, n] over several n, each the median of 10."""
    flops: dict[str, float] = {}
    for size in (256, 512) if toy else (4096, 8192, 16384):
        left, right = (torch.randn(size, size, device=device(toy), dtype=torch.bfloat16) for _ in range(2))
        times = []
        for number in range(13):
            started = now(toy)
            left @ right
            times.append(now(toy) - started)
            if number == 2:
                times.clear()  # the first ones choose kernels
        flops[str(size)] = 2 * size**3 / statistics.median(times)
    return {"matmul_bf16_flops_per_s": max(flops.values()), "by_size": flops}
