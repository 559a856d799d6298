"""The rates at which hardware is assumed to run a training step: named numbers, which a plan prints."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache

import torch

from recipes.cost_plan.step_time import Rates

CPU_SHARE_OF_PRODUCT = 0.7  # of the rate of a large matrix product on the same thread: benchmarks/scaling.py
CPU_UPDATE_BYTES = 8e9  # per second: AdamW in the same fits
CPU_BYTES_IN_NODE = 1.5e9  # per second and rank: gloo over the loopback interface, summing included
CPU_NETWORK_BYTES = 1.25e9  # per second and node, to other nodes: 10 Gbit/s
CPU_ASSUMPTIONS = (
    f"assumed: {CPU_SHARE_OF_PRODUCT:.0%} of the rate of a large matrix product on this machine, which is measured, "
    "and 10 Gbit/s to other nodes"
)
MATRIX = 1024
STEP_S = 0.01  # of a step: batch, launches, waiting of the host


@dataclass(frozen=True)
class GPU:
    """A GPU by its data sheet, without sparsity."""

    bf16_flops: float  # per second
    fp32_flops: float
    memory_bytes: float  # per second
    nvlink_bytes: float  # per second, in one direction


GPUS = {
    "a100": GPU(312e12, 19.5e12, 2.0e12, 300e9),
    "h100": GPU(989e12, 67e12, 3.35e12, 450e9),
    "h200": GPU(989e12, 67e12, 4.8e12, 450e9),
}


@dataclass(frozen=True)
class Assumptions:
    """What a plan for GPUs assumes. None of these shares has been measured on a cluster."""

    gpu: str = "h100"
    product_share: float = 0.35  # of the peak of matrix products, over forward and backward as a whole
    memory_share: float = 0.7  # of the memory's bandwidth, in the update
    nvlink_share: float = 0.7
    network_gbit: float = 400.0  # of each GPU to other nodes, in one direction
    network_share: float = 0.8
    message_s_in_node: float = 3e-6
    message_s_between: float = 8e-6
    host_bytes: float = 1e9  # per second and rank, between CPUs by gloo: a share of 64 Gbit/s of a node
    host_message_s: float = 50e-6
    row_s: float = 3.5e-6  # of the host for each row of the step: measured on a CPU, benchmarks/host_rows.py

    def rates(self, precision: str) -> Rates:
        """The rates of a GPU, in a precision of `engine.precision`."""
        gpu = GPUS[self.gpu]
        peak = gpu.fp32_flops if precision == "fp32" else gpu.bf16_flops
        return Rates(
            peak * self.product_share,
            gpu.memory_bytes * self.memory_share,
            gpu.nvlink_bytes * self.nvlink_share,
            self.network_gbit / 8 * 1e9 * self.network_share,
            self.message_s_in_node,
            self.message_s_between,
            self.host_bytes,
            self.host_message_s,
            STEP_S,
            self.row_s,
        )

    def describe(self) -> str:
        """The assumptions in one line."""
        network = f"{self.network_gbit:.0f} Gbit/s to other nodes at {self.network_share:.0%}"
        return (
            f"assumed, not measured: {self.gpu} at {self.product_share:.0%} of its peak; for each GPU {network}, "
            f"NVLink at {self.nvlink_share:.0%}"
        )


def cpu_rates(ranks_of_node: int) -> Rates:
    """The rates of one of several ranks of this machine, which share its cores: that of matrix products is measured,
    the others are those of a fit (docs/results.md)."""
    share = min((os.cpu_count() or 1) / ranks_of_node, float(torch.get_num_threads()) if ranks_of_node == 1 else 1.0)
    network = CPU_NETWORK_BYTES / ranks_of_node
    flops = _product_rate() * CPU_SHARE_OF_PRODUCT * share
    rates = (CPU_BYTES_IN_NODE, network, 0.0, 0.0, CPU_BYTES_IN_NODE, 0.0)
    return Rates(flops, CPU_UPDATE_BYTES * min(share, 1.0), *rates, STEP_S, overlaps=False)


@cache
def _product_rate() -> float:
    """Operations per second of a large product on one thread, while it is not interrupted."""
    threads, matrix = torch.get_num_threads(), torch.randn(MATRIX, MATRIX)
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(4):
            started = time.thread_time()
            matrix @ matrix
            seconds.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return 2 * MATRIX**3 / min(seconds)
