"""Ragged rows do what a list of tensors does; functions of both kinds of rows leave a tensor's result as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tensors.ragged import Ragged, concatenate, elements, finite_rows, like, place, sum_rows, take

SIZES = [2, 0, 3, 1]


def rows(sizes: list[int] = SIZES) -> Ragged:
    return Ragged(torch.arange(sum(sizes) * 2.0).view(-1, 2), torch.tensor(sizes))


def as_list(ragged: Ragged) -> list[list[Any]]:
    flat = ragged.flatten() if ragged.sizes.ndim else ragged.unsqueeze(0)
    return [part.tolist() for part in flat.values.split(flat.sizes.tolist())]


@pytest.mark.parametrize(
    "index", [slice(1, 3), [3, 0, 0], torch.tensor([2, 1]), torch.tensor([True, False, True, True]), slice(2, 2), 2]
)
def test_rows_are_chosen_as_of_a_list(index: Any) -> None:
    ragged = rows()
    numbers = torch.arange(4)[index].flatten().tolist()
    chosen = ragged[index]
    assert as_list(chosen) == [as_list(ragged)[number] for number in numbers]
    assert chosen.shape == (*torch.arange(4)[index].shape, 2)


def test_neighbours_are_a_view_through_which_sums_are_written() -> None:
    ragged = rows()
    ragged[1:3].values.zero_()
    assert ragged.values[2:5].eq(0).all()
    assert ragged.values[5].tolist() == [10, 11]


def test_parts_and_the_whole() -> None:
    ragged = rows()
    assert [as_list(part) for part in ragged.split([1, 3])] == [as_list(ragged)[:1], as_list(ragged)[1:]]
    assert [len(part) for part in ragged.split(3)] == [3, 1]
    assert as_list(concatenate(ragged.split(2))) == as_list(ragged) == as_list(concatenate(list(ragged.split(1))))
    assert as_list(concatenate([ragged[0:0], ragged])) == as_list(ragged)
    assert [len(one.values) for one in ragged] == SIZES


def test_rows_of_several_axes() -> None:
    ragged = rows()
    lists = Ragged(ragged.values, ragged.sizes.view(2, 2))
    assert lists.shape == (2, 2, 2)
    assert as_list(lists[1]) == as_list(ragged)[2:]
    assert as_list(lists.flatten(0, 1)) == as_list(ragged)
    queries = ragged[torch.tensor([0, 3])]
    assert as_list(queries.unsqueeze(1).expand_as(lists)) == [as_list(ragged)[number] for number in (0, 0, 3, 3)]


@pytest.mark.parametrize("kind", ["dense", "ragged"])
def test_placed_taken_and_summed(kind: str) -> None:
    ragged = rows()
    given: Any = ragged if kind == "ragged" else torch.arange(8.0).view(4, 2)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    placed = place(given, mask)
    flat = placed.flatten(0, 1)
    for number, where in enumerate(mask.flatten().nonzero().squeeze(1).tolist()):
        assert elements(flat[where : where + 1]).equal(elements(given[number : number + 1]))
    index = torch.tensor([2, 0, 2, 2])
    taken = take(given, index)
    sums = sum_rows(taken, torch.tensor([1, 0, 1, 1]), 2)
    assert elements(sums[0:1]).equal(elements(given[0:1]))
    assert elements(sums[1:2]).equal(3 * elements(given[2:3]))


def test_values_and_gradients() -> None:
    ragged = rows().requires_grad_()
    assert ragged.requires_grad
    assert ragged.grad_fn is None
    product = ragged[[2, 0]] * 3
    assert product.grad_fn is not None
    (product * product.detach()).sum().backward()
    expected = torch.zeros(6, 2)
    expected[:5] = 9 * ragged.values.detach()[:5]
    assert ragged.values.grad is not None
    assert ragged.values.grad.equal(expected)
    assert like(ragged, expected).sizes is ragged.sizes  # type: ignore[union-attr]
    assert like(ragged, expected).values is expected  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="rows of other sizes"):
        _ = ragged * ragged[[0, 1, 3, 2]]
    with pytest.raises(AssertionError, match="6 elements in rows, 5 values"):
        Ragged(torch.zeros(5), torch.tensor(SIZES))


def test_rows_that_are_not_finite() -> None:
    ragged = rows()
    ragged.values[3, 1] = float("nan")
    assert finite_rows(ragged).tolist() == [True, True, False, True]
    dense: Tensor = torch.tensor([[1.0, 2.0], [float("inf"), 0.0]])
    assert finite_rows(dense).tolist() == [True, False]
