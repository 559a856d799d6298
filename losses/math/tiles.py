"""A matrix of rows and texts of the step, computed tile by tile: never held, and never with the texts of all ranks.

The rows are of this rank. The texts that they are compared with, the columns, come from all ranks, block by block
(`Share.start_gather`). The forward keeps a few numbers per row; the backward computes each tile again, and the
gradients of a block of texts go back to the ranks that they came from before the next block comes. So a rank computes
its share of the products, and memory grows with its own texts. Rows and texts may be ragged: as many elements of a
block come as its texts have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from losses.math.share import Share
from tensors.ragged import Ragged, Rows, elements, like

ELEMENTS_PER_TILE = 2**19  # 2 MiB in float32
COLUMNS_PER_TILE = 2**10
BYTES_PER_BLOCK = 2**25  # of the texts that are gathered at once: enough for full bandwidth, little beside a model


@dataclass(frozen=True)
class Tile:
    """Some rows and some columns. `rows[name]` [R, ...] and `columns[name]` [C, ...] are what belongs to them."""

    row: Tensor  # [R] int64: which rows of this rank
    column: Tensor  # [C] int64: which texts of the step
    rows: Mapping[str, Any]
    columns: Mapping[str, Any]
    scalars: Mapping[str, Tensor]


TileFunction = Callable[[Tile], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Columns:
    """The texts that rows are compared with. `own[name]` [own texts, ...] is what this rank has of its own."""

    own: Mapping[str, Any]
    places: Sequence[Tensor]  # of each rank that has some: which texts of the step they are, [its texts], on the host
    share: Share

    @cached_property
    def is_local(self) -> bool:
        """Whether all of them are this rank's."""
        return len(self.places) == 1

    @cached_property
    def texts_per_rank(self) -> int:
        """How many texts of each rank a block has."""
        longest = max(map(len, self.places))
        if self.is_local:
            return max(1, longest)
        width = sum(self._bytes_per_text(name) for name in self.own)
        return max(1, min(longest, BYTES_PER_BLOCK // (width * len(self.places))))

    @cached_property
    def sizes(self) -> Mapping[str, Sequence[Tensor]]:
        """The numbers of elements of each rank's ragged texts, on the host."""
        numbers = [len(texts) for texts in self.places]
        own = {name: value.sizes for name, value in self.own.items() if isinstance(value, Ragged)}
        return {name: self.share.start_gather(sizes, numbers)().split(numbers) for name, sizes in own.items()}

    def _bytes_per_text(self, name: str) -> int:
        """The bytes of a text, at most, the same on all ranks."""
        value = self.own[name]
        if not isinstance(value, Ragged):
            return value.shape[1:].numel() * value.itemsize
        of_element = value.values.shape[1:].numel() * value.values.itemsize
        return of_element * max(1, *(int(sizes.max()) for sizes in self.sizes[name] if len(sizes)))

    def blocks(self) -> list[tuple[slice, list[int], Tensor]]:
        """The blocks: which of each rank's texts they have, how many these are, and which texts of the step."""
        found = []
        for start in range(0, max(1, *map(len, self.places)), self.texts_per_rank):
            part = slice(start, start + self.texts_per_rank)
            texts = [of_rank[part] for of_rank in self.places]
            found.append((part, [len(of_rank) for of_rank in texts], torch.cat(texts)))
        return found

    def start(self, part: slice, sizes: list[int], name: str) -> Callable[[], Any]:
        """Start to gather a block."""
        values = self.own[name].detach()[part]
        if self.is_local:
            return lambda: values
        if not isinstance(values, Ragged):
            return self.share.start_gather(values, sizes)
        of_texts, numbers = self._elements(part, name)
        found = self.share.start_gather(values.values, numbers)
        return lambda: Ragged(found(), of_texts)

    def give_back(self, gradient: Any, part: slice, sizes: list[int], name: str) -> Callable[[], Tensor]:
        """Start to send the gradients of a block back; these are their values."""
        if not self.is_local and isinstance(gradient, Ragged):
            sizes = self._elements(part, name)[1]
        values = elements(gradient)
        return (lambda: values) if self.is_local else self.share.start_return(values, sizes)

    def _elements(self, part: slice, name: str) -> tuple[Tensor, list[int]]:
        """The sizes of the ragged texts of a block, and how many elements each rank has of them."""
        of_ranks = [sizes[part] for sizes in self.sizes[name]]
        return torch.cat(of_ranks), [int(sizes.sum()) for sizes in of_ranks]


def over_tiles(
    function: TileFunction, rows: Mapping[str, Rows], columns: Columns, scalars: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Call `function` for every tile. It gives tensors [R]; all of them are returned as [tiles of columns, rows].

    `function` computes with what the tile has: the gradients of nothing else are found. All ranks call this together,
    also one without rows or texts.
    """
    layout = {name: value.detach() for name, value in rows.items()}
    matrix = _Matrix(function, layout, tuple(scalars), columns, len(next(iter(rows.values()))))
    if matrix.is_one_tile:
        (_, _, texts), device = columns.blocks()[0], next(iter(rows.values())).device
        row, column = torch.arange(matrix.num_rows, device=device), texts.to(device, non_blocking=True)
        return tuple(value.unsqueeze(0) for value in function(Tile(row, column, rows, columns.own, scalars)))
    given = map(elements, (*rows.values(), *scalars.values(), *columns.own.values()))
    found: tuple[Tensor, ...] = _OverTiles.apply(matrix, *given)
    return found


@dataclass(frozen=True)
class _Matrix:
    function: TileFunction
    row_layout: Mapping[str, Rows]  # which ragged rows the values of each name are in
    scalar_names: tuple[str, ...]
    columns: Columns
    num_rows: int

    @property
    def is_one_tile(self) -> bool:
        """Whether it is so small that nothing is gained by computing it twice."""
        columns = len(self.columns.places[0])
        few = columns <= COLUMNS_PER_TILE and self.num_rows * columns <= ELEMENTS_PER_TILE // 8
        return self.columns.is_local and few

    def named(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The rows and the scalars by name."""
        count = len(self.row_layout)
        given = zip(self.row_layout.items(), tensors[:count], strict=True)
        rows = {name: like(layout, values) for (name, layout), values in given}
        return rows, dict(zip(self.scalar_names, tensors[count : count + len(self.scalar_names)], strict=True))

    def blocks(self, kept: list[dict[str, Any]]) -> Iterator[tuple[list[int], Tensor, dict[str, Any]]]:
        """The blocks of texts, each with the sizes and the places of its texts. While one is computed with, the next
        is on its way. `kept`: a block that is not gathered again, if there is but one; it is put there."""
        blocks = self.columns.blocks()
        names, device = list(self.columns.own), next(iter(self.columns.own.values())).device
        waiting = {} if kept else {name: self.columns.start(*blocks[0][:2], name) for name in names}
        for number, (_, sizes, texts) in enumerate(blocks):
            block = kept[0] if kept else {name: waiting[name]() for name in names}
            if len(blocks) == 1 and not kept:
                kept.append(block)
            if number + 1 < len(blocks):
                waiting = {name: self.columns.start(*blocks[number + 1][:2], name) for name in names}
            yield sizes, texts.to(device, non_blocking=True), block

    def tiles(
        self, rows: dict[str, Any], scalars: dict[str, Tensor], texts: Tensor, block: dict[str, Any]
    ) -> Iterator[list[tuple[slice, slice, Tile]]]:
        """The tiles of a block, as lists of those of the same columns, with the slices of rows and of columns."""
        width = max(1, min(len(texts), COLUMNS_PER_TILE))
        height = max(1, ELEMENTS_PER_TILE // width)
        every = torch.arange(self.num_rows, device=texts.device)
        for left in range(0, max(1, len(texts)), width):
            across = slice(left, left + width)
            part = {name: value[across] for name, value in block.items()}
            found = []
            for top in range(0, max(1, self.num_rows), height):
                down = slice(top, top + height)
                own = {name: value[down] for name, value in rows.items()}
                found.append((down, across, Tile(every[down], texts[across], own, part, scalars)))
            yield found


class _OverTiles(torch.autograd.Function):
    """The forward and the backward of `over_tiles`: a pass over all tiles each."""

    @staticmethod
    def forward(ctx: Any, matrix: _Matrix, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.matrix, ctx.kept = matrix, []
        ctx.save_for_backward(*tensors)
        rows, scalars = matrix.named(tensors)
        results: list[tuple[Tensor, ...]] = []
        for _, texts, block in matrix.blocks(ctx.kept):
            for of_columns in matrix.tiles(rows, scalars, texts, block):
                values = [matrix.function(tile) for _, _, tile in of_columns]
                results.append(tuple(torch.cat(parts) for parts in zip(*values, strict=True)))
        return tuple(torch.stack(values) for values in zip(*results, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        matrix: _Matrix = ctx.matrix
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        needed = dict(zip(range(len(tensors)), ctx.needs_input_grad[1:], strict=True))
        rows, scalars = matrix.named(tensors)
        found = [torch.zeros_like(value) if needed[i] else None for i, value in enumerate(tensors)]
        of_rows = _in_rows(rows, found)
        of_scalars = dict(zip(scalars, found[len(rows) :], strict=False))
        of_own = _in_rows(matrix.columns.own, found[len(rows) + len(scalars) :])
        number = 0
        waiting: list[tuple[Any, slice, Callable[[], Tensor]]] = []
        for (part, _, _), (sizes, texts, block) in zip(matrix.columns.blocks(), matrix.blocks(ctx.kept), strict=True):
            wanted = {name: block[name] for name, value in of_own.items() if value is not None}
            of_block = {name: like(value, torch.zeros_like(elements(value))) for name, value in wanted.items()}
            for of_columns in matrix.tiles(rows, scalars, texts, block):
                for down, across, tile in of_columns:
                    of_tile = [None if value is None else value[number, down] for value in gradients]
                    _add_gradients(matrix.function, tile, of_tile, (of_rows, down), (of_block, across), of_scalars)
                number += 1
            _finish(waiting)
            waiting = [
                (own, part, matrix.columns.give_back(of_block[name], part, sizes, name))
                for name, own in of_own.items()
                if own is not None
            ]
        _finish(waiting)
        return (None, *found)


def _in_rows(values: Mapping[str, Any], gradients: Sequence[Tensor | None]) -> dict[str, Any]:
    """The gradients of values, in their rows; None: not needed."""
    named = zip(values.items(), gradients, strict=False)
    return {name: None if found is None else like(value, found) for (name, value), found in named}


def _finish(waiting: list[tuple[Any, slice, Callable[[], Tensor]]]) -> None:
    """Put the gradients of own texts, which have come back, in their places."""
    for own, part, come_back in waiting:
        elements(own[part]).copy_(come_back())


def _add_gradients(
    function: TileFunction,
    tile: Tile,
    gradients: Sequence[Tensor | None],
    rows: tuple[Mapping[str, Any], slice],
    columns: tuple[Mapping[str, Any], slice],
    scalars: Mapping[str, Tensor | None],
) -> None:
    """Compute a tile again and add its gradients to those of the rows, the columns and the scalars; None or missing:
    not needed."""
    wanted: list[Tensor] = []
    leaves: list[Tensor] = []

    def leaf(values: Mapping[str, Any], sums: Mapping[str, Any], part: slice | None) -> dict[str, Any]:
        found = {}
        for name, value in values.items():
            total = sums.get(name)
            found[name] = value.detach().requires_grad_(total is not None)
            if total is not None:
                leaves.append(elements(found[name]))
                wanted.append(elements(total if part is None else total[part]))
        return found

    with torch.enable_grad():
        own = leaf(tile.rows, *rows), leaf(tile.columns, *columns), leaf(tile.scalars, scalars, None)
        values = function(Tile(tile.row, tile.column, *own))
    outputs = [(value, gradient) for value, gradient in zip(values, gradients, strict=True) if value.requires_grad]
    if not outputs or not leaves:
        return
    results, given = zip(*outputs, strict=True)
    of_leaves = torch.autograd.grad(results, leaves, given, allow_unused=True)
    for total, gradient in zip(wanted, of_leaves, strict=True):
        if gradient is not None:
            total.add_(gradient)
