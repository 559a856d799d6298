"""Collectives: exact copies in global order, for any division of the rows."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from engines.distributed import preemption
from engines.distributed.collectives import (
    RowsOfRanks,
    agree_on_device,
    all_agree,
    broadcast_object,
    gather_objects,
    gather_planned_rows,
    gather_rows,
    note_signal,
)
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks

SHARES = {
    "even": [[0, 2, 4], [1, 3, 5]],
    "ragged": [[5, 0, 2, 4], [3, 1]],
    "one empty": [[3, 0, 2, 1], []],
    "three ranks": [[4], [], [1, 0, 3, 2]],
    "two rows": [[1], [0]],
    "one row": [[], [0]],
    "no row": [[], []],
}
LAYOUTS = {
    "plain": lambda values: values,
    "every third value": lambda values: torch.stack([values] * 3, dim=-1)[..., 1],
    "columns first": lambda values: values.mT.contiguous().mT if values.ndim > 1 else values,
    "rows of a larger tensor": lambda values: torch.cat([values, values, values])[len(values) : 2 * len(values)],
    "columns of a larger tensor": lambda values: torch.cat([values] * 3, dim=-1)[..., : values.shape[-1]],
    "expanded": lambda values: values[:1].expand(len(values), *values.shape[1:]),
}


def every_row(total: int) -> dict[str, Tensor]:
    """Float rows with the bit patterns that arithmetic would change, a strided matrix, and other dtypes."""
    generator = torch.Generator().manual_seed(total)
    score = torch.randn(total, generator=generator)
    score[:3] = torch.tensor([float("nan"), -0.0, float("-inf")])[:total]
    return {
        "score": score,
        "embedding": torch.randn(4, total, generator=generator).T,
        "layers": torch.randn(total, 2, 3, generator=generator).bfloat16(),
        "no layers": torch.zeros(total, 0, 3),
        "odd": torch.randint(0, 255, (total, 5), generator=generator, dtype=torch.uint8),
        "flag": torch.arange(total) % 2 == 0,
    }


def gather_shares(name: str) -> dict[str, Tensor]:
    rows = SHARES[name][rank()]
    total = sum(len(share) for share in SHARES[name])
    own = {key: value[rows].requires_grad_(key == "score") for key, value in every_row(total).items()}
    # A column-major copy: its storage is not in the order of its elements.
    own["embedding"] = own["embedding"].T.contiguous().T
    gathered = gather_rows(own, rows, total)
    planned = gather_planned_rows(own, RowsOfRanks(SHARES[name]))
    for found in (gathered, planned):
        assert list(found) == list(own)
        assert not found["score"].requires_grad
    for key, value in gathered.items():
        assert planned[key].contiguous().view(torch.uint8).equal(value.contiguous().view(torch.uint8)), key
        assert planned[key].dtype == value.dtype
    return gathered


def agree_in_turn() -> list[tuple[bool, bool]]:
    """Of flags that are true on all ranks, on the first one, on none: what all agree on. Then rank 1 has a signal."""
    found = [agree_on_device(torch.tensor(flag)) for flag in (True, rank() == 0, False)]
    with patch.object(preemption, "requested", lambda: rank() == 1):
        found.append(agree_on_device(torch.tensor(True)))
    note_signal(float(found[0][1]))
    assert not preemption.agreed()
    note_signal(float(found[3][1]))
    assert preemption.agreed()
    return [(bool(agreed), bool(no_signal)) for agreed, no_signal in found]


def test_flags_of_the_device_are_agreed_on() -> None:
    for found in run_ranks(agree_in_turn):
        assert found == [(True, True), (False, True), (False, True), (True, False)]


def test_planned_rows_belong_to_one_rank_each() -> None:
    with pytest.raises(AssertionError, match="belongs to two ranks"):
        RowsOfRanks([[0, 1], [1]]).places()
    assert RowsOfRanks([[2, 0], [1]]).places().tolist() == [1, 2, 0]


def exchange_objects() -> tuple[list[dict[str, int]], bool, bool, str]:
    return (
        gather_objects({"rank": rank()}),
        all_agree(True),
        all_agree(rank() == 0),
        broadcast_object(f"from {rank()}"),
    )


@pytest.mark.parametrize("name", SHARES)
def test_gather_rows_copies_bits_in_global_order(name: str) -> None:
    results = run_ranks(gather_shares, len(SHARES[name]), name)
    expected = every_row(sum(len(share) for share in SHARES[name]))
    for gathered in results:
        assert list(gathered) == list(expected)
        for key, value in expected.items():
            assert gathered[key].dtype == value.dtype
            assert gathered[key].contiguous().view(torch.uint8).equal(value.contiguous().view(torch.uint8)), key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("total", [0, 1, 2, 3])
def test_gather_rows_of_any_shape_dtype_and_layout(total: int, layout: str) -> None:
    """`view` of another dtype refuses the strides that a single row or column has kept."""
    order = list(reversed(range(total)))
    for width in ((), (0,), (1,), (3,), (7, 1), (1, 1), (0, 4)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8):
            plain = torch.arange(max(total * torch.Size(width).numel(), 1)).to(dtype)
            plain = plain[: total * torch.Size(width).numel()].view(total, *width)
            values = {"a": LAYOUTS[layout](plain[..., None])[..., 0] if width == () else LAYOUTS[layout](plain)}
            values["b"] = torch.zeros(total, 1, dtype=torch.uint8)  # makes the bytes of a row an odd number
            gathered = gather_rows(values, order, total)
            assert gathered["a"].equal(values["a"].flip(0)), (width, dtype)
            assert gathered["a"].dtype == dtype
            assert gathered["a"].stride() == torch.empty(gathered["a"].shape).stride()


def test_gather_rows_of_one_process_orders_and_detaches() -> None:
    values = {"score": torch.tensor([3.0, 1.0, 2.0], requires_grad=True)}
    gathered = gather_rows(values, torch.tensor([2, 0, 1]), 3)["score"]
    assert gathered.tolist() == [1.0, 2.0, 3.0]
    assert not gathered.requires_grad


@pytest.mark.parametrize("rows", [[0, 0, 1], [0, 1, 3], [0, 1]])
def test_gather_rows_refuses_shares_that_are_no_partition(rows: list[int]) -> None:
    with pytest.raises(AssertionError, match="partition"):
        gather_rows({"score": torch.zeros(len(rows))}, rows, 3)


def test_objects_over_two_ranks() -> None:
    for gathered, agreed, disagreed, broadcast in run_ranks(exchange_objects):
        assert gathered == [{"rank": 0}, {"rank": 1}]
        assert agreed
        assert not disagreed
        assert broadcast == "from 0"


def test_objects_of_one_process() -> None:
    assert exchange_objects() == ([{"rank": 0}], True, True, "from 0")
