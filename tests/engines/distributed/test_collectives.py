"""Collectives: exact copies in global order, for any division of the rows."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.distributed import preemption
from engines.distributed.collectives import (
    RowsOfRanks,
    agree_on_device,
    all_agree,
    broadcast_object,
    exchange_rows,
    gather_arrays,
    gather_objects,
    gather_planned_rows,
    gather_rows,
    note_signal,
)
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from engines.distributed.traffic import start_counting, traffic_statistics

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


def arrays_of(number: int) -> dict[str, np.ndarray]:
    """The arrays of a rank: other ones than those of the others, of odd sizes; the second has none."""
    arrays = {
        "labels": np.arange(3 * number, dtype=np.float32).reshape(-1, 3),
        "letters": np.frombuffer(b"abcdefg"[: 5 + number], dtype=np.uint8),
        "keys": np.array([-(2**63), 2**63 - 1][:number], dtype=np.int64),
        f"of rank {number}": np.array([True, False, True]),
    }
    return {} if number == 1 else arrays


def gather_and_exchange() -> tuple[list[dict[str, np.ndarray]], list[list[float]], list[list[float]]]:
    """The arrays of all ranks. Rank r sends r + s rows to rank s (none to itself), each (r, s). And floats without a
    second axis."""
    number, ranks = rank(), world_size()
    leaving = [0 if other == number else number + other for other in range(ranks)]
    rows = [[number, other] for other in range(ranks) for _ in range(leaving[other])]
    own = torch.tensor(rows, dtype=torch.int32).reshape(-1, 2)
    found = exchange_rows(own, leaving, leaving, name="rows")
    floats = exchange_rows(torch.full((ranks,), float("nan")), [1] * ranks, [1] * ranks, name="rows")
    return gather_arrays(arrays_of(number), "arrays"), found.tolist(), floats.isnan().tolist()


@pytest.mark.parametrize("ranks", [1, 3])
def test_arrays_and_rows_reach_the_other_ranks(ranks: int) -> None:
    for number, (gathered, rows, floats) in enumerate(run_ranks(gather_and_exchange, ranks)):
        for other, arrays in enumerate(gathered):
            expected = arrays_of(other)
            assert list(arrays) == list(expected)
            for name, values in expected.items():
                assert arrays[name].dtype == values.dtype
                np.testing.assert_array_equal(arrays[name], values)
        assert rows == [[other, number] for other in range(ranks) for _ in range(number + other) if other != number]
        assert floats == [True] * ranks


def test_bytes_and_seconds_of_each_collective_are_counted() -> None:
    first, second = run_ranks(traffic_of_a_step_of_two)
    names = {name.removesuffix("_s") for name in first if name.endswith("_s")}
    assert names == {"traffic/lists", "traffic/tokens", "traffic/representations", "traffic/flags"}
    for found in (first, second):
        assert found["traffic/lists_received_bytes"] == found["traffic/lists_sent_bytes"] > 200, "padded, and a header"
        assert found["traffic/representations_received_bytes"] == 2 * 4, "two rows, of which one may be padding"
        assert found["traffic/flags_sent_bytes"] == 2
        assert all(0 < found[f"{name}_s"] < 60 for name in names)
    assert first["traffic/tokens_sent_bytes"] == second["traffic/tokens_received_bytes"] == 2 * 5 * 4
    assert second["traffic/tokens_sent_bytes"] == first["traffic/tokens_received_bytes"] == 1 * 5 * 4
    assert traffic_of_one_process() == {}


def traffic_of_a_step_of_two() -> dict[str, float]:
    """Of three rows each rank keeps some and sends the others."""
    start_counting()
    gather_arrays({"a": np.zeros(100 * (1 + rank()), dtype=np.uint8)}, "lists")
    leaving, coming = ([1, 2], [1, 1]) if rank() == 0 else ([1, 2], [2, 2])
    exchange_rows(torch.zeros(3, 5, dtype=torch.int32), leaving, coming, name="tokens")
    gather_planned_rows({"score": torch.zeros(2 - rank())}, RowsOfRanks([[0, 2], [1]]))
    all_agree(True)
    found = traffic_statistics()
    start_counting()
    assert not traffic_statistics()
    return found


def traffic_of_one_process() -> dict[str, float]:
    start_counting()
    all_agree(True)
    gather_arrays({"a": np.zeros(3)}, "lists")
    return traffic_statistics()
