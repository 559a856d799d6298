"""A matrix in tiles is the matrix, in value and gradient, whatever the tiles are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losses.math import tiles
from losses.math.share import ALONE
from losses.math.tiles import Columns, Tile, over_tiles

GENERATOR = torch.Generator().manual_seed(0)
ROWS, TEXTS = torch.randn(7, 3, generator=GENERATOR).double(), torch.randn(11, 3, generator=GENERATOR).double()
SHIFTS, SCALE = torch.randn(7, generator=GENERATOR).double(), torch.tensor(1.5).double()
GUIDES = torch.randn(11, generator=GENERATOR).double()


def function(tile: Tile) -> tuple[Tensor, Tensor]:
    """The logsumexp of some products, and their number; rows and columns know who they are."""
    products = (tile.rows["row"] @ tile.columns["text"].T - tile.rows["shift"][:, None]) * tile.scalars["scale"]
    counted = (tile.columns["guide"] > 0) & ((tile.row[:, None] + tile.column) % 3 > 0)
    products = products.masked_fill(~counted, torch.finfo(products.dtype).min)
    return products.logsumexp(dim=1), counted.sum(dim=1).double()


def value(rows: Tensor, shifts: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    columns = Columns({"text": texts, "guide": GUIDES[: len(texts)]}, [torch.arange(len(texts))], ALONE)
    sums, counts = over_tiles(function, {"row": rows, "shift": shifts}, columns, {"scale": scale})
    return (sums.logsumexp(dim=0) * counts.sum(dim=0)).sum()


def by_hand(rows: Tensor, shifts: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    products = (rows @ texts.T - shifts[:, None]) * scale
    counted = (GUIDES > 0) & ((torch.arange(7)[:, None] + torch.arange(11)) % 3 > 0)
    return (products.masked_fill(~counted, -torch.inf).logsumexp(dim=1) * counted.sum(dim=1)).sum()


@pytest.mark.parametrize(("elements", "width"), [(2**19, 2**10), (2**6, 3), (6, 4), (1, 1), (40, 11)])
def test_value_and_gradient(elements: int, width: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiles, "ELEMENTS_PER_TILE", elements)
    monkeypatch.setattr(tiles, "COLUMNS_PER_TILE", width)
    inputs = [part.clone().requires_grad_() for part in (ROWS, SHIFTS, TEXTS, SCALE)]
    found, expected = value(*inputs), by_hand(*inputs)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)
        assert one.norm() > 0.1


@pytest.mark.parametrize("width", [2**10, 4])
def test_what_needs_no_gradient_gets_none(width: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiles, "COLUMNS_PER_TILE", width)
    texts = TEXTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(ROWS, SHIFTS, texts, SCALE), [texts])
    expected = torch.autograd.grad(by_hand(ROWS, SHIFTS, texts, SCALE), [texts])
    torch.testing.assert_close(gradient, expected[0])
    assert not value(ROWS, SHIFTS, TEXTS, SCALE).requires_grad


def test_no_rows_and_no_texts(monkeypatch: pytest.MonkeyPatch):
    for elements in (2**19, 1):
        monkeypatch.setattr(tiles, "ELEMENTS_PER_TILE", elements)
        rows, texts = ROWS[:0].clone().requires_grad_(), TEXTS.clone().requires_grad_()
        found = value(rows, SHIFTS[:0], texts, SCALE)
        assert found == 0
        assert [part.abs().sum() for part in torch.autograd.grad(found, [rows, texts])] == [0, 0]
        columns = Columns({"text": TEXTS[:0]}, [torch.arange(0)], ALONE)
        (sums,) = over_tiles(
            lambda tile: ((tile.rows["row"] @ tile.columns["text"].T).sum(1),), {"row": ROWS}, columns, {}
        )
        assert sums.tolist() == [[0] * 7]


def test_a_tile_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiles, "ELEMENTS_PER_TILE", 8)
    monkeypatch.setattr(tiles, "COLUMNS_PER_TILE", 4)
    sizes = []

    def shape(tile: Tile) -> tuple[Tensor]:
        sizes.append((len(tile.row), len(tile.column)))
        return ((tile.rows["row"] @ tile.columns["text"].T).sum(1),)

    over_tiles(shape, {"row": ROWS}, Columns({"text": TEXTS}, [torch.arange(11)], ALONE), {})
    assert sizes == [(2, 4), (2, 4), (2, 4), (1, 4)] * 2 + [(2, 3), (2, 3), (2, 3), (1, 3)]
