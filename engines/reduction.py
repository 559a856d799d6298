"""The sum of the gradients over the ranks, made while the last backward of a step still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engines.distributed.nodes import NodeSum
from engines.distributed.traffic import counted, reduced

BUCKET_BYTES = 25 * 2**20  # of gradients per all-reduce: enough for full bandwidth, and the first one starts early
ALIGNMENT = 16  # bytes: what fused kernels load at once


class GradientSum:
    """The gradients of a step, as views of flat buckets that are summed over the ranks.

    A gradient is final once the last backward of the step has added to it. The buckets hold the parameters from the
    last to the first, as a backward reaches them. A bucket is summed as soon as all its gradients are final, while the
    backward goes on with earlier layers. All ranks sum the buckets in the same order: one with a parameter that the
    step does not use (whose gradient is 0), and those after it, wait for the end of the backward. The buckets are freed
    with the gradients, and need no memory beside them. With `nodes` each bucket is summed by node.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], nodes: NodeSum | None = None):
        self.nodes = nodes
        self.buckets = list(_buckets(list(reversed(parameters))))
        self._bucket_of = {parameter: i for i, bucket in enumerate(self.buckets) for parameter in bucket}
        self._flat: list[Tensor] = []  # of the step; empty between steps
        self._missing: list[int] = []  # the number of gradients of each bucket that are not final
        self._waits: list[Callable[[], Any]] = []  # for the sums that have been started, of the first buckets
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def begin_backward(self, *, last: bool) -> None:
        """Prepare for a backward: the first of a step makes gradients of 0, the last starts to sum them."""
        if not self._flat:
            shares = 1 if self.nodes is None else self.nodes.shares
            self._flat = [_make_gradients(bucket, shares) for bucket in self.buckets]
        self._missing = [len(bucket) for bucket in self.buckets] if last else []

    def finish(self) -> None:
        """Sum what is left after the last backward. The gradients are those of all ranks from now on."""
        self._missing = [0] * len(self.buckets)
        self._sum_complete()
        nbytes = sum(flat.nbytes for flat in self._flat)
        # The time is that which the backward has not hidden.
        with counted("gradients", **reduced(nbytes), device=self._flat[0].device):
            for wait in self._waits:
                wait()  # on a GPU the stream waits, not the host
        self._missing, self._waits = [], []

    def release(self) -> None:
        """Forget the gradients of the step, which the engine has set to None."""
        self._flat = []

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        if self._missing:
            self._missing[self._bucket_of[parameter]] -= 1
            self._sum_complete()

    def _sum_complete(self) -> None:
        """Start to sum the complete buckets that follow those already started."""
        while len(self._waits) < len(self.buckets) and self._missing[len(self._waits)] == 0:
            flat = self._flat[len(self._waits)]
            start = _start_sum if self.nodes is None else self.nodes.start
            self._waits.append(start(flat))


def _start_sum(flat: Tensor) -> Callable[[], Any]:
    wait: Callable[[], Any] = dist.all_reduce(flat, async_op=True).wait
    return wait


def _make_gradients(bucket: Sequence[nn.Parameter], shares: int) -> Tensor:
    """Give each parameter a gradient of 0, which is a view of one flat tensor that divides into `shares`."""
    step = ALIGNMENT // bucket[0].element_size()
    sizes = [-(-parameter.numel() // step) * step for parameter in bucket]
    total = -(-sum(sizes) // (step * shares)) * step * shares
    flat = torch.zeros(total, dtype=bucket[0].dtype, device=bucket[0].device)
    for part, parameter in zip(flat.split([*sizes, total - sum(sizes)]), bucket, strict=False):
        parameter.grad = part[: parameter.numel()].view_as(parameter)
    return flat


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Consecutive parameters of one dtype, up to BUCKET_BYTES together."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (parameter.dtype != bucket[0].dtype or size + parameter.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket
