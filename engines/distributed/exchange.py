"""The exchange of rows between the ranks that make them and those that read them, and of their gradients back.

Every rank knows beforehand who makes and who reads which row, so nobody tells the others how many come, and on a GPU
all is only queued. A rank gets the rows that it reads and no others. Rows of any length (the vectors of a text's
tokens, the nonzero weights of a sparse one) can travel likewise: as many elements as a row has go where a dense one
goes, and no rank holds those of all.
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

    def to_readers(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows [made, ...] of each name -> those that this rank reads [read, ...], bit by bit, detached."""
        device = next(iter(values.values())).device
        if world_size() == 1:
            places = _moved(self.leaving[self.index], device)
            return {name: value.detach()[places] for name, value in values.items()}
        leaving, index = _moved(self.leaving, device), _moved(self.index, device)
        packed = torch.cat([as_bytes(values[name].detach()[leaving]) for name in sorted(values)], dim=1)
        found = exchange_rows(packed, self.leaving_sizes, self.coming_sizes, "representations")
        return unpack(found[index], values, start=0)

    def to_makers(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients [read, ...] of the rows that this rank reads -> those of the rows that it has made [made, ...],
        summed over all rows and ranks that read them."""
        device = next(iter(gradients.values())).device
        leaving, index = _moved(self.leaving, device), _moved(self.index, device)
        sums = {
            name: value.new_zeros(sum(self.coming_sizes), *value.shape[1:]).index_add_(0, index, value)
            for name, value in gradients.items()
        }
        if world_size() > 1:
            packed = torch.cat([as_bytes(sums[name]) for name in sorted(sums)], dim=1)
            found = exchange_rows(packed, self.coming_sizes, self.leaving_sizes, "representation_gradients")
            sums = unpack(found, gradients, start=0)
        return {
            name: value.new_zeros(self.num_made, *value.shape[1:]).index_add_(0, leaving, value)
            for name, value in sums.items()
        }


def _moved(index: Tensor, device: torch.device) -> Tensor:
    """An index of the host on the device; nobody waits for the copy."""
    pinned: Any = index.pin_memory() if device.type == "cuda" else index
    moved: Tensor = pinned.to(device, non_blocking=True)
    return moved
