"""The share of the ranks of a run: `losses.math.share.Share` by collectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data.batch import ListBatch
from engines.distributed.nodes import ranks_of_nodes
from engines.distributed.process_group import rank, timeout, world_size
from engines.distributed.traffic import counted, gathered, reduced
from losses.math.share import ALONE, Share
from tensors.ragged import Ragged


class Sharing:
    """How the ranks divide the lists of every step, and the groups of ranks whose texts are negatives of each other.

    Raises ValueError if a group is a node and the nodes are not known. Make it on all ranks together.
    """

    def __init__(self, negatives: str = "global"):
        self.groups = _groups(negatives)
        self.own = next(group for group in self.groups if rank() in group)
        self._group: Any = None
        if any(1 < len(group) < world_size() for group in self.groups):
            made = [dist.new_group(group, timeout=timeout()) for group in self.groups]
            self._group = made[self.groups.index(self.own)]

    def of(self, batch: ListBatch) -> Share:
        """The share of this rank in a step."""
        return ALONE if world_size() == 1 else RankShare(len(batch.examples), self.own, self._group)

    def documents_per_query(self, sizes: Tensor) -> float:
        """The mean number of documents that a query is compared with. sizes: of each list of the step."""
        of_ranks = [sizes[number :: world_size()] for number in range(world_size())]
        queries, documents = [len(own) for own in of_ranks], [int(own.sum()) for own in of_ranks]
        products = [sum(queries[i] for i in group) * sum(documents[i] for i in group) for group in self.groups]
        return sum(products) / len(sizes)


def _groups(negatives: str) -> list[list[int]]:
    ranks = list(range(world_size()))
    if negatives == "global" or len(ranks) == 1:
        return [ranks]
    if negatives == "rank":
        return [[number] for number in ranks]
    return ranks_of_nodes("trainer.negatives=node")


class RankShare(Share):
    """Every W-th list of a step of `num_lists`. `compared` are ranks, of which this is one, `group` their process group
    (None: of all ranks). Texts are gathered among these or among all ranks: their number tells."""

    def __init__(self, num_lists: int, compared: Sequence[int], group: Any = None):
        super().__init__(rank(), world_size(), compared)
        self.num_lists, self.group = num_lists, group

    def sum(self, values: Tensor) -> Tensor:
        found: Tensor = _Sum.apply(values)
        return found

    def least(self, values: Tensor) -> Tensor:
        return _reduced(values, dist.ReduceOp.MIN)

    def gather(self, values: Any) -> Any:
        if isinstance(values, Ragged):
            return self._gather_ragged(values)
        found: Tensor = _Gather.apply(values, self)
        return found

    def _gather_ragged(self, rows: Ragged) -> Ragged:
        numbers = [len(rows)] * self.ranks
        sizes = self.start_gather(rows.sizes, numbers)()
        counts = [int(of_rank.sum()) for of_rank in sizes.split(numbers)]
        of_ranks = Ragged(_GatherElements.apply(rows.values, self, counts), sizes)
        lists = torch.arange(self.num_lists)
        return of_ranks[lists % self.ranks * len(rows) + lists // self.ranks]

    def once(self, value: Tensor) -> Tensor:
        found: Tensor = _Once.apply(value, self.rank == 0)
        return found

    def _group_of(self, sizes: Sequence[int]) -> Any:
        return None if len(sizes) == self.ranks else self.group

    def start_gather(self, values: Tensor, sizes: Sequence[int]) -> Callable[[], Tensor]:
        longest, device = max(sizes), values.device
        if longest == 0:
            return lambda: values
        found = values.new_empty(len(sizes), longest, *values.shape[1:])
        padded = _padded(values, longest)
        others = padded.nbytes * (len(sizes) - 1)
        with counted("texts", sent=others, received=others, device=device):
            work = dist.all_gather(list(found.unbind()), padded, group=self._group_of(sizes), async_op=True)

        def wait() -> Tensor:
            with counted("texts", sent=0, received=0, device=device):
                work.wait()  # on a GPU the stream waits, not the host
            if min(sizes) == longest:
                return found.flatten(0, 1)
            return torch.cat([of_rank[:size] for of_rank, size in zip(found, sizes, strict=True)])

        return wait

    def start_return(self, gradients: Tensor, sizes: Sequence[int]) -> Callable[[], Tensor]:
        longest, device = max(sizes), gradients.device
        if longest == 0:
            return lambda: gradients
        of_ranks = torch.cat([_padded(of_rank, longest) for of_rank in gradients.split(list(sizes))])
        found = gradients.new_empty(longest, *gradients.shape[1:])
        reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        others = found.nbytes * (len(sizes) - 1)
        with counted("text_gradients", sent=others, received=others, device=device):
            work = reduce_scatter(found, of_ranks, group=self._group_of(sizes), async_op=True)
        own = sizes[self.rank if len(sizes) == self.ranks else list(self.compared).index(self.rank)]

        def wait() -> Tensor:
            with counted("text_gradients", sent=0, received=0, device=device):
                work.wait()
            return found[:own]

        return wait


def _padded(values: Tensor, longest: int) -> Tensor:
    """values [rows, ...] -> [longest, ...], with zeros at the end."""
    missing = longest - len(values)
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values.contiguous()


def _reduced(values: Tensor, operation: Any) -> Tensor:
    found = values.detach().clone(memory_format=torch.contiguous_format)
    with counted("sums", **reduced(found.nbytes), device=found.device):
        dist.all_reduce(found, op=operation)
    return found


class _Sum(torch.autograd.Function):
    """The sum over the ranks, of which each computes the same further things: so the gradient for its own part is that
    for the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _reduced(values, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Gather(torch.autograd.Function):
    """The values of all lists; the gradient for own ones is a part of that for all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: RankShare) -> Tensor:
        ctx.share, ctx.own = share, len(values)
        sent = values.to(torch.uint8) if values.dtype == torch.bool else values
        found = sent.new_empty(share.ranks, *sent.shape)
        with counted("outputs", **gathered(sent.nbytes), device=sent.device):
            dist.all_gather(list(found.unbind()), sent.contiguous())
        return found.transpose(0, 1).flatten(0, 1)[: share.num_lists].to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _padded(gradient[ctx.share.rank :: ctx.share.ranks], ctx.own), None


class _GatherElements(torch.autograd.Function):
    """The elements of the ragged rows of all ranks, one rank's after the other's; the gradient is that for own ones."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: RankShare, counts: list[int]) -> Tensor:
        start = sum(counts[: share.rank])
        ctx.own = slice(start, start + counts[share.rank])
        return share.start_gather(values, counts)()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own], None, None


class _Once(torch.autograd.Function):
    """The value of one rank, since one without lists does not know it; its gradient there, 0 on the others."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, is_here: bool) -> Tensor:
        ctx.is_here = is_here
        return _reduced(value if is_here else torch.zeros_like(value), dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient if ctx.is_here else torch.zeros_like(gradient), None
