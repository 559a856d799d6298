"""The nodes of a run, and a sum over all ranks in which a part of every node crosses the network once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engines.distributed.collectives import gather_objects
from engines.distributed.process_group import rank, timeout, world_size


def ranks_of_nodes(option: str) -> list[list[int]]:
    """The ranks of each node. Call it on all ranks. Raises ValueError, which names the `option` that asks for nodes, if
    torchrun does not say which rank is on which."""
    found = gather_objects(os.environ.get("GROUP_RANK"))
    nodes = [node for node in found if node is not None]
    if len(nodes) < len(found):
        raise ValueError(f"{option} needs GROUP_RANK, which torchrun sets: start the run by torchrun")
    return [[each for each in range(world_size()) if nodes[each] == node] for node in sorted(set(nodes))]


def ranks_per_node() -> int | None:
    """How many ranks the node of this one has; None if it was not started by torchrun."""
    found = os.environ.get("LOCAL_WORLD_SIZE")
    return int(found) if found else None


def layout() -> dict[str, Any]:
    """How many ranks the run has, and how many of them this node."""
    return {"world_size": world_size(), "ranks_per_node": ranks_per_node()}


class NodeSum:
    """Sums tensors over all ranks in three steps: the ranks of a node sum shares, ranks with the same share sum it over
    the nodes, and the ranks of a node gather the shares.

    The result has the same bits on all ranks. It differs from that of one collective by rounding, as the order of the
    sums does. Make it on all ranks. Raises ValueError if nodes have different numbers of ranks, or one each.
    """

    def __init__(self) -> None:
        nodes = ranks_of_nodes("engine.by_node=true")
        sizes = {len(node) for node in nodes}
        if len(nodes) < 2 or len(sizes) > 1 or sizes == {1}:
            shape = ", ".join(str(len(node)) for node in nodes)
            raise ValueError(
                f"engine.by_node=true needs several nodes with the same number of ranks, of at least 2, but the nodes "
                f"have {shape}: remove it"
            )
        self.shares = sizes.pop()
        within = [dist.new_group(node, timeout=timeout()) for node in nodes]
        across = [dist.new_group(list(place), timeout=timeout()) for place in zip(*nodes, strict=True)]
        number = next(index for index, node in enumerate(nodes) if rank() in node)
        self._within, self._across = within[number], across[nodes[number].index(rank())]
        self._thread = ThreadPoolExecutor(1)  # gloo waits in it; in one order on all ranks
        self._stream: Any = None

    def start(self, values: Tensor) -> Callable[[], None]:
        """Start to sum `values` [n] in place, n a multiple of `shares`. Call the result before they are read."""
        if values.device.type != "cuda":
            return self._thread.submit(self._sum, values).result
        self._stream = self._stream or torch.cuda.Stream(values.device)
        self._stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(self._stream):
            self._sum(values)
        return lambda: torch.cuda.current_stream(values.device).wait_stream(self._stream)

    def _sum(self, values: Tensor) -> None:
        parts = values.view(self.shares, -1)
        own = torch.empty_like(parts[0])
        reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        reduce_scatter(own, values, group=self._within)
        dist.all_reduce(own, group=self._across)
        dist.all_gather(list(parts.unbind()), own, group=self._within)
