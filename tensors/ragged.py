"""Rows of different lengths: the vectors of a text's tokens.

A representation is a tensor [rows, ...], or a `Ragged`, whose rows have any number of elements. The functions below do
the same with both; of a tensor they are the usual operation of torch. All packages may use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Ragged:
    """Rows of any number of elements each, one after the other, without padding.

    values: [elements, ...], differentiable. sizes: [...] int64 on the host, the number of elements of each row; its
    axes are the leading axes of the rows.
    """

    def __init__(self, values: Tensor, sizes: Tensor):
        assert int(sizes.sum()) == len(values), f"{int(sizes.sum())} elements in rows, {len(values)} values"
        self.values, self.sizes = values, sizes

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes, and the number of dimensions of an element."""
        return (*self.sizes.shape, *self.values.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def requires_grad(self) -> bool:
        return self.values.requires_grad

    @property
    def grad_fn(self) -> Any:
        return self.values.grad_fn

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Ragged]:
        return (self[number] for number in range(len(self)))

    def with_values(self, values: Tensor) -> Ragged:
        """The same rows with other values."""
        return Ragged(values, self.sizes)

    def detach(self) -> Ragged:
        return self.with_values(self.values.detach())

    def requires_grad_(self, requires_grad: bool = True) -> Ragged:
        self.values.requires_grad_(requires_grad)
        return self

    def float(self) -> Ragged:
        return self.with_values(self.values.float())

    def to(self, device: torch.device | str) -> Ragged:
        return self.with_values(self.values.to(device))

    def cpu(self) -> Ragged:
        return self.to("cpu")

    def __mul__(self, factor: Any) -> Ragged:
        """Multiply by a number, or elementwise by rows of the same sizes."""
        if isinstance(factor, Ragged):
            assert torch.equal(factor.sizes, self.sizes), "rows of other sizes"
            factor = factor.values
        return self.with_values(self.values * factor)

    def sum(self) -> Tensor:
        """The sum of all values."""
        return self.values.sum()

    def offsets(self) -> Tensor:
        """The beginning of each row, and the end of the last: [rows + 1] int64 on the host."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.sizes.flatten().cumsum(0)])

    def row_of_elements(self) -> Tensor:
        """The row of each element [elements] int64, on the device of the values."""
        rows = torch.arange(self.sizes.numel()).repeat_interleave(self.sizes.flatten())
        return moved(rows, self.device)

    def places(self, rows: Tensor) -> Tensor:
        """The places of the elements of some rows [n]: [their elements] int64, on the host."""
        sizes, starts = self.sizes.flatten()[rows], self.offsets()[rows]
        begins = sizes.cumsum(0) - sizes  # among those that are asked for
        return torch.arange(int(sizes.sum())) + (starts - begins).repeat_interleave(sizes)

    def flatten(self, first: int = 0, last: int = -1) -> Ragged:
        return Ragged(self.values, self.sizes.flatten(first, last))

    def unsqueeze(self, axis: int) -> Ragged:
        return Ragged(self.values, self.sizes.unsqueeze(axis))

    def expand_as(self, other: Ragged) -> Ragged:
        """The rows, repeated along leading axes of size 1, as many as `other` has."""
        return self.flatten()[torch.arange(self.sizes.numel()).view(self.sizes.shape).expand(other.sizes.shape)]

    def __getitem__(self, index: Any) -> Ragged:
        """Choose rows, as of a tensor by its leading axes. Rows that follow each other are a view."""
        if isinstance(index, Tensor):
            index = getattr(index, "on_host", index).cpu()
        rows = torch.arange(self.sizes.numel()).view(self.sizes.shape)[index].flatten()
        sizes = self.sizes[index]
        if len(rows) == 0:
            part: Any = slice(0, 0)
        elif bool((rows.diff() == 1).all()):
            offsets = self.offsets()
            part = slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1]))
        else:
            part = moved(self.places(rows), self.device)
        return Ragged(self.values[part], sizes)

    def split(self, size: int | Sequence[int]) -> list[Ragged]:
        """The rows in parts of `size`, or of these sizes."""
        sizes = [len(part) for part in torch.arange(len(self)).split(size if isinstance(size, int) else list(size))]
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        return [self[start : start + each] for start, each in zip(starts, sizes, strict=False)]


Rows = Tensor | Ragged


def moved(index: Tensor, device: torch.device) -> Tensor:
    """An index of the host on the device; nobody waits for the copy."""
    pinned: Any = index.pin_memory() if device.type == "cuda" else index
    copied: Tensor = pinned.to(device, non_blocking=True)
    return copied


def elements(rows: Rows) -> Tensor:
    """The tensor that holds all values."""
    return rows.values if isinstance(rows, Ragged) else rows


def like(rows: Rows, values: Tensor) -> Rows:
    """Other values in the same rows."""
    return rows.with_values(values) if isinstance(rows, Ragged) else values


def concatenate(parts: Sequence[Any]) -> Any:
    """Rows one after the other, in new memory."""
    if not isinstance(parts[0], Ragged):
        return torch.cat(list(parts))
    return Ragged(torch.cat([part.values for part in parts]), torch.cat([part.sizes for part in parts]))


def take(rows: Any, index: Tensor) -> Any:
    """Choose rows by an index [n] of the host, which nobody waits for."""
    if isinstance(rows, Ragged):
        return rows[index]
    return rows[moved(index, rows.device)]


def place(rows: Any, mask: Tensor) -> Any:
    """Rows [n, ...] -> [*mask.shape, ...], where a mask [...] of the host with n places is True. The others are 0 (a
    ragged row there is empty)."""
    if isinstance(rows, Ragged):
        sizes = torch.zeros(mask.shape, dtype=torch.int64).masked_scatter(mask, rows.sizes)
        return Ragged(rows.values, sizes)
    # Found on the host: of a mask on a GPU the host would have to wait for the number of rows.
    places = tuple(moved(index, rows.device) for index in mask.nonzero(as_tuple=True))
    return rows.new_zeros(*mask.shape, *rows.shape[1:]).index_put(places, rows)


def sum_rows(rows: Any, index: Tensor, number: int) -> Any:
    """Add row i to row index[i] of `number` rows; index [rows] is on the host. Ragged rows that are added have one
    size."""
    if not isinstance(rows, Ragged):
        return rows.new_zeros(number, *rows.shape[1:]).index_add_(0, moved(index, rows.device), rows)
    sizes = torch.zeros(number, dtype=torch.int64).index_put((index,), rows.sizes)
    sums = Ragged(rows.values.new_zeros(int(sizes.sum()), *rows.values.shape[1:]), sizes)
    sums.values.index_add_(0, moved(sums.places(index), rows.device), rows.values)
    return sums


def finite_rows(rows: Rows) -> Tensor:
    """Whether all values of each row are finite [rows] bool, on the device."""
    values = elements(rows).detach().isfinite()
    finite = values if values.ndim == 1 else values.flatten(1).all(dim=1)
    if not isinstance(rows, Ragged):
        return finite
    wrong = torch.zeros(len(rows), device=rows.device).index_add_(0, rows.row_of_elements(), (~finite).float())
    return wrong == 0
