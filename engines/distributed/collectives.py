"""Collectives that are exact; a single process needs no process group for any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from engines.distributed import preemption
from engines.distributed.process_group import rank, world_size

T = TypeVar("T")


def gather_rows(values: Mapping[str, Tensor], rows: Sequence[int] | Tensor, total: int) -> dict[str, Tensor]:
    """Every rank's rows, in global order, on every rank: values[name] [own rows, ...] -> [total, ...].

    `rows` are the global indices of this rank's rows. Over the ranks they are disjoint and cover range(total); shares
    may differ in size and be empty, but every rank passes the same names, trailing shapes and dtypes. The results are
    bit-exact copies, detached, on the device of `values`.
    """
    names = sorted(values)
    device = values[names[0]].device
    index = torch.as_tensor(rows, dtype=torch.int64, device=device)
    # One row of bytes: its global index, then its values. Bytes, so that no dtype needs its own collective; contiguous,
    # since gloo reads the storage of a strided tensor as if it were not strided.
    packed = torch.cat([_as_bytes(index), *(_as_bytes(values[name].detach()) for name in names)], dim=1)
    if world_size() > 1:
        packed = _gather_ragged(packed)
    index = packed[:, :8].contiguous().view(torch.int64).flatten()
    assert index.sort().values.equal(torch.arange(total, device=device)), "the ranks' rows must partition range(total)"
    ordered = torch.empty_like(packed)
    ordered[index] = packed

    gathered, start = {}, 8
    for name in names:
        shape, dtype = values[name].shape[1:], values[name].dtype
        stop = start + shape.numel() * dtype.itemsize
        gathered[name] = ordered[:, start:stop].contiguous().view(dtype).view(total, *shape)
        start = stop
    return {name: gathered[name] for name in values}


def _as_bytes(values: Tensor) -> Tensor:
    """[rows, ...] -> [rows, bytes per row] uint8."""
    flat = values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)
    return flat.contiguous().view(torch.uint8)


def _gather_ragged(packed: Tensor) -> Tensor:
    """Concatenate [own rows, width] over the ranks, whose numbers of rows may differ."""
    sizes = _gather_equal(torch.tensor([len(packed)], device=packed.device)).flatten()
    longest = int(sizes.max())
    padded = packed.new_zeros(longest, packed.shape[1])
    padded[: len(packed)] = packed
    return _gather_equal(padded)[torch.arange(longest, device=packed.device) < sizes[:, None]]


def _gather_equal(values: Tensor) -> Tensor:
    """[...] of the same shape on every rank -> [ranks, ...]."""
    gathered = values.new_empty(world_size(), *values.shape)
    dist.all_gather(list(gathered.unbind()), values)
    return gathered


def gather_objects(value: T, group: Any = None) -> list[T]:
    """Every rank's picklable object, by rank, on every rank; over a `group` of all ranks where one is given."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value, group=group)
    return gathered


def broadcast_object(value: T, group: Any = None) -> T:
    """Rank 0's picklable object, on every rank; over a `group` of all ranks where one is given."""
    if world_size() == 1:
        return value
    holder = [value if rank() == 0 else None]
    dist.broadcast_object_list(holder, src=0, group=group)
    return holder[0]  # type: ignore[return-value]


def all_agree(flag: bool) -> bool:
    """Whether `flag` is true on every rank. The same collective tells them all of a signal that has reached one."""
    flags = torch.tensor([flag, not preemption.requested()], dtype=torch.uint8)
    if world_size() > 1:
        dist.all_reduce(flags, op=dist.ReduceOp.MIN)
    agreed, undisturbed = flags.tolist()
    if not undisturbed:
        preemption.agree()
    return bool(agreed)
