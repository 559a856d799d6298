"""The exchange of rows between the ranks that make them and those that read them, and of their gradients back.

Every rank knows beforehand who makes and who reads which row, so nobody tells the others how many come, and on a GPU
all is only queued. A rank gets the rows that it reads and no others. Ragged rows (the vectors of a text's tokens, the
nonzero weights of a sparse one) travel likewise: as many elements as a row has go where a dense one goes. Their numbers
go before them, from host to host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.distributed.collectives import as_bytes, exchange_rows, unpack
from engines.distributed.process_group import rank, world_size
from tensors.ragged import Ragged, Rows, sum_rows, take


@dataclass(frozen=True)
class RowExchange:
    """What this rank sends and receives. Each of the rows that it reads is one of the made ones, perhaps one that other
    rows and other ranks read too."""

    num_made: int  # rows that this rank has made
    leaving: Tensor  # [sent] int64: which of them go away, in the order of the ranks that get them
    leaving_sizes: Sequence[int]  # how many go to each rank
    coming_sizes: Sequence[int]  # how many come from each rank
    index: Tensor  # [read] int64: which of those that came is each row that this rank reads

    @classmethod
    def plan(cls, made: Sequence[Sequence[int]], reader: np.ndarray, place: np.ndarray) -> RowExchange:
        """made: the made rows of each rank, in its order; over all ranks they are range(their number). reader, place
        [rows]: of each row that is read, the rank that reads it and which made row it is."""
        number, ranks, total = rank(), world_size(), sum(map(len, made))
        maker, position = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        for each, own in enumerate(made):
            maker[list(own)], position[list(own)] = each, np.arange(len(own))
        target, row = np.divmod(np.unique(reader * total + place), max(1, total))
        leaving = maker[row] == number
        coming = row[target == number]
        coming = coming[np.argsort(maker[coming], kind="stable")]
        at = np.zeros(total, dtype=np.int64)
        at[coming] = np.arange(len(coming))
        return cls(
            len(made[number]),
            torch.from_numpy(position[row[leaving]]),
            np.bincount(target[leaving], minlength=ranks).tolist(),
            np.bincount(maker[coming], minlength=ranks).tolist(),
            torch.from_numpy(at[place[reader == number]]),
        )

    def to_readers(self, values: Mapping[str, Rows]) -> dict[str, Any]:
        """The rows [made, ...] of each name -> those that this rank reads [read, ...], bit by bit, detached."""
        if world_size() == 1:
            return {name: take(value.detach(), self.leaving[self.index]) for name, value in values.items()}
        sent = {name: take(value.detach(), self.leaving) for name, value in values.items()}
        found = _exchange(sent, self.leaving_sizes, self.coming_sizes, "representations")
        return {name: take(value, self.index) for name, value in found.items()}

    def to_makers(self, gradients: Mapping[str, Rows]) -> dict[str, Any]:
        """The gradients [read, ...] of the rows that this rank reads -> those of the rows that it has made [made, ...],
        summed over all rows and ranks that read them."""
        sums = {name: sum_rows(value, self.index, sum(self.coming_sizes)) for name, value in gradients.items()}
        if world_size() > 1:
            sums = _exchange(sums, self.coming_sizes, self.leaving_sizes, "representation_gradients")
        return {name: sum_rows(value, self.leaving, self.num_made) for name, value in sums.items()}


def _exchange(values: Mapping[str, Any], leaving: Sequence[int], coming: Sequence[int], what: str) -> dict[str, Any]:
    """Send rows, which lie in the order of the ranks that get them, and receive those of the others."""
    dense = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    found: dict[str, Any] = {}
    if dense:
        packed = torch.cat([as_bytes(dense[name]) for name in sorted(dense)], dim=1)
        found = dict(unpack(exchange_rows(packed, leaving, coming, what), dense, start=0))
    for name in sorted(values.keys() - dense.keys()):
        found[name] = _exchange_ragged(values[name], leaving, coming, what)
    return {name: found[name] for name in values}


def _exchange_ragged(rows: Ragged, leaving: Sequence[int], coming: Sequence[int], what: str) -> Ragged:
    sizes = exchange_rows(rows.sizes, leaving, coming, f"{what}_sizes")  # between hosts
    sent, received = (
        [int(part.sum()) for part in counts.split(list(numbers))]
        for counts, numbers in ((rows.sizes, leaving), (sizes, coming))
    )
    packed = exchange_rows(as_bytes(rows.values), sent, received, what)
    return Ragged(unpack(packed, {"values": rows.values}, start=0)["values"], sizes)
