"""Collectives with bit-exact results. A single process needs no process group for them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from engines.distributed import preemption
from engines.distributed.process_group import rank, world_size
from engines.distributed.traffic import counted, gathered, reduced
from tensors.ragged import Ragged, Rows

T = TypeVar("T")

ALIGNMENT = 8  # bytes: where an array may begin among others


def gather_rows(values: Mapping[str, Tensor], rows: Sequence[int] | Tensor, total: int) -> dict[str, Tensor]:
    """Gather the rows of all ranks on every rank, in global order: values[name] [own rows, ...] -> [total, ...].

    `rows` are the global indices of this rank's rows. Over all ranks they are disjoint and cover range(total). Ranks
    may have different numbers of rows, or none, but all pass the same names, trailing shapes and dtypes. The results
    are bit-exact copies, detached, on the device of `values`.
    """
    names = sorted(values)
    device = values[names[0]].device
    index = torch.as_tensor(rows, dtype=torch.int64, device=device)
    # A packed row is its global index followed by its values, as bytes: one collective serves all dtypes.
    packed = torch.cat([as_bytes(index), *(as_bytes(values[name].detach()) for name in names)], dim=1)
    if world_size() > 1:
        packed = _gather_ragged(packed)
    index = _from_bytes(packed[:, :8], (), torch.int64)
    assert index.sort().values.equal(torch.arange(total, device=device)), "the ranks' rows must partition range(total)"
    ordered = torch.empty_like(packed)
    ordered[index] = packed

    return unpack(ordered, values, start=8)


@dataclass(frozen=True)
class RowsOfRanks:
    """The rows of a step that each rank has, known on every rank beforehand. Over all ranks they cover range(total)."""

    rows: Sequence[Sequence[int]]  # of each rank, in the order in which it has them

    @property
    def longest(self) -> int:
        """The number of rows of the rank that has most."""
        return max(len(own) for own in self.rows)

    def places(self) -> Tensor:
        """The place of each row if the rows of all ranks follow each other, those of each padded to `longest` [total].

        Raises AssertionError if a row belongs to two ranks.
        """
        rows = np.concatenate([np.asarray(own, dtype=np.int64) for own in self.rows])
        assert len(np.unique(rows)) == len(rows), "a row belongs to two ranks"
        places = [number * self.longest + np.arange(len(own)) for number, own in enumerate(self.rows)]
        return torch.from_numpy(np.concatenate(places)[rows.argsort()])


def gather_planned_rows(values: Mapping[str, Rows], planned: RowsOfRanks) -> dict[str, Any]:
    """Gather rows like `gather_rows`, bit by bit, where every rank knows the rows of all: nobody tells the others how
    many it has, so the host waits for nothing, and on a GPU all is only queued. Ragged rows tell how long they are."""
    ragged = {name: rows for name, rows in values.items() if isinstance(rows, Ragged)}
    dense = {name: rows for name, rows in values.items() if isinstance(rows, Tensor)}
    found: dict[str, Any] = _gather_dense(dense, planned) if dense else {}
    for name in sorted(ragged):
        found[name] = _gather_ragged_rows(ragged[name], planned)
    return {name: found[name] for name in values}


def _gather_ragged_rows(rows: Ragged, planned: RowsOfRanks) -> Ragged:
    sizes = _gather_dense({"sizes": rows.sizes}, planned)["sizes"]
    places = Ragged(torch.empty(int(sizes.sum())), sizes).places
    own = [places(torch.as_tensor(of_rank, dtype=torch.int64)).tolist() for of_rank in planned.rows]
    return Ragged(_gather_dense({"values": rows.values}, RowsOfRanks(own))["values"], sizes)


def _gather_dense(values: Mapping[str, Tensor], planned: RowsOfRanks) -> dict[str, Tensor]:
    places = planned.places()
    device = next(iter(values.values())).device
    places = (places.pin_memory() if device.type == "cuda" else places).to(device, non_blocking=True)
    if world_size() == 1:
        return {name: value.detach()[places] for name, value in values.items()}
    packed = torch.cat([as_bytes(values[name].detach()) for name in sorted(values)], dim=1)
    padded = packed.new_zeros(planned.longest, packed.shape[1])
    padded[: len(packed)] = packed
    gathered_rows = _gather_equal(padded, "representations")
    return unpack(gathered_rows.flatten(0, 1)[places], values, start=0)


def unpack(packed: Tensor, values: Mapping[str, Tensor], start: int) -> dict[str, Tensor]:
    """Cut packed rows [rows, bytes], from byte `start` on, into tensors like `values`, which lie in the order of their
    names."""
    unpacked = {}
    for name in sorted(values):
        shape, dtype = values[name].shape[1:], values[name].dtype
        stop = start + shape.numel() * dtype.itemsize
        unpacked[name] = _from_bytes(packed[:, start:stop], shape, dtype)
        start = stop
    return {name: unpacked[name] for name in values}


def as_bytes(values: Tensor) -> Tensor:
    """Copy values [rows, ...] as [rows, bytes per row] uint8."""
    return _bytes_of(values.clone(memory_format=torch.contiguous_format))


def _from_bytes(packed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Copy packed [rows, bytes per row] as values [rows, *shape] of `dtype`."""
    values = torch.empty(len(packed), *shape, dtype=dtype, device=packed.device)
    _bytes_of(values).copy_(packed)
    return values


def _bytes_of(values: Tensor) -> Tensor:
    """View values [rows, ...], which must be a new tensor, as [rows, bytes per row] uint8.

    That of `contiguous()` is none: with a single row or column it keeps the strides of the tensor that it was cut out
    of, and `view` refuses them.
    """
    return values.view(len(values), values.shape[1:].numel()).view(torch.uint8)


def _gather_ragged(packed: Tensor) -> Tensor:
    """Concatenate [own rows, width] over the ranks, which may have different numbers of rows."""
    sizes = _gather_equal(torch.tensor([len(packed)], device=packed.device), "rows").flatten()
    longest = int(sizes.max())
    padded = packed.new_zeros(longest, packed.shape[1])
    padded[: len(packed)] = packed
    return _gather_equal(padded, "rows")[torch.arange(longest, device=packed.device) < sizes[:, None]]


def _gather_equal(values: Tensor, name: str) -> Tensor:
    """Gather values [...], of the same shape on every rank, as [ranks, ...]. `name`: what they are counted as."""
    found = values.new_empty(world_size(), *values.shape)
    with counted(name, **gathered(values.nbytes), device=values.device):
        dist.all_gather(list(found.unbind()), values)
    return found


def gather_arrays(arrays: Mapping[str, np.ndarray], name: str) -> list[dict[str, np.ndarray]]:
    """Gather the named arrays of each rank, in rank order, on every rank; ranks may have others, or none. `name`: what
    they are counted as.

    They travel as bytes between hosts, behind their names, dtypes and shapes in JSON: nothing is pickled.
    """
    header = json.dumps([[key, values.dtype.str, values.shape] for key, values in arrays.items()]).encode()
    parts = [np.int64(len(header)).tobytes(), header, *(values.tobytes() for values in arrays.values())]
    packed = b"".join(part.ljust(_aligned(len(part)), b"\0") for part in parts)
    own = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    if world_size() == 1:
        return [dict(_arrays_in(own.numpy()))]
    longest = int(_gather_equal(torch.tensor([len(own)]), name).max())
    padded = own.new_zeros(longest)
    padded[: len(own)] = own
    return [dict(_arrays_in(of_rank.numpy())) for of_rank in _gather_equal(padded, name)]


def _arrays_in(packed: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that one rank has packed, without a copy."""
    length = int(packed[:ALIGNMENT].view(np.int64)[0])
    start = ALIGNMENT + _aligned(length)
    for key, dtype, shape in json.loads(packed[ALIGNMENT : ALIGNMENT + length].tobytes()):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        yield key, packed[start : start + size].view(dtype).reshape(shape)
        start += _aligned(size)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def exchange_rows(values: Tensor, leaving: Sequence[int], coming: Sequence[int], name: str) -> Tensor:
    """Send rows of `values` [own rows, ...] to all ranks and receive theirs [rows, ...], both in rank order.

    leaving, coming: the numbers of rows that go to each rank, and come from it. `name`: what they are counted as.
    """
    if world_size() == 1:
        return values
    row, number = values.shape[1:].numel() * values.itemsize, rank()
    found = values.new_empty(sum(coming), *values.shape[1:])
    bytes_of = {"sent": (sum(leaving) - leaving[number]) * row, "received": (sum(coming) - coming[number]) * row}
    with counted(name, **bytes_of, device=values.device):
        dist.all_to_all_single(found, values.contiguous(), list(coming), list(leaving))
    return found


def gather_objects(value: T, group: Any = None) -> list[T]:
    """Gather a picklable object of every rank, in rank order, on every rank. `group`: another group of all ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value, group=group)
    return gathered


def broadcast_object(value: T, group: Any = None) -> T:
    """Return the picklable object of rank 0 on every rank. `group`: another group of all ranks."""
    if world_size() == 1:
        return value
    holder = [value if rank() == 0 else None]
    dist.broadcast_object_list(holder, src=0, group=group)
    return holder[0]  # type: ignore[return-value]


def on_main(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and return its result on every rank. Its ValueError or OSError is raised on all."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (action(), None)
        except (ValueError, OSError) as error:
            outcome = (None, error)
    value, failure = broadcast_object(outcome)
    if failure is not None:
        raise failure
    return value


def all_agree(flag: bool) -> bool:
    """Whether `flag` is true on every rank. The same collective informs all ranks of a signal to one of them."""
    flags = torch.tensor([flag, not preemption.requested()], dtype=torch.uint8)
    _reduce_to_least(flags)
    agreed, no_signal = flags.tolist()
    if not no_signal:
        preemption.set_agreed()
    return bool(agreed)


def _reduce_to_least(flags: Tensor) -> None:
    if world_size() > 1:
        with counted("flags", **reduced(flags.nbytes), device=flags.device):
            dist.all_reduce(flags, op=dist.ReduceOp.MIN)


def agree_on_device(flag: Tensor) -> tuple[Tensor, Tensor]:
    """Give two flags of the device, the same on every rank: whether `flag` (a bool scalar) is true on all of them, and
    whether none has received a signal. Nothing waits: read them with `HostCopy`, and hand the second to
    `note_signal`."""
    no_signal = torch.full((), not preemption.requested(), dtype=torch.bool, device=flag.device)
    flags = torch.stack([flag, no_signal]).to(torch.uint8)
    _reduce_to_least(flags)
    agreed, unsignalled = flags.bool().unbind()
    return agreed, unsignalled


def note_signal(no_signal: float) -> None:
    """Note, on every rank at once, what `agree_on_device` has found of signals."""
    if not no_signal:
        preemption.set_agreed()
