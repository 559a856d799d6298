"""Rows go to the ranks that read them bit by bit, and the sums of their gradients come back to those that made them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.distributed.exchange import RowExchange
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from tensors.ragged import Ragged

# The made rows of each rank; and for each row that is read, who reads it and which made row it is.
CASES: dict[str, tuple[list[list[int]], list[int], list[int]]] = {
    "one rank": ([[2, 0, 1]], [0, 0, 0, 0], [1, 0, 2, 1]),
    "one rank, each once": ([[2, 0, 1]], [0, 0, 0], [0, 1, 2]),
    "all go elsewhere": ([[0, 1], [2, 3]], [1, 1, 0, 0], [0, 1, 2, 3]),
    "read on both": ([[3, 1], [0, 2]], [0, 1, 0, 1, 1, 0], [1, 1, 0, 2, 2, 3]),
    "a rank reads nothing": ([[0], [1], [2]], [0, 2, 2], [2, 1, 0]),
    "a rank makes nothing": ([[], [1, 0]], [0, 1, 1], [0, 1, 0]),
}


def made_rows(total: int) -> dict[str, Tensor]:
    score = torch.tensor([float("nan"), -0.0, 3.0, 4.0])[:total]
    return {
        "score": score,
        "embedding": torch.randn(3, total, generator=torch.Generator().manual_seed(0)).T,
        "layers": torch.arange(total * 4.0).view(total, 2, 2).bfloat16(),
    }


def exchange(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    made, reader, place = CASES[name]
    planned = RowExchange.plan(made, np.array(reader), np.array(place))
    own = {key: value[made[rank()]] for key, value in made_rows(sum(map(len, made))).items()}
    own["score"].requires_grad_()
    found = planned.to_readers(own)
    assert not any(value.requires_grad for value in found.values())
    rows = torch.tensor([row for row, who in enumerate(reader) if who == rank()])
    gradients = {"score": 2.0 ** rows.float(), "layers": torch.ones(len(rows), 2, 2, dtype=torch.bfloat16)}
    return found, planned.to_makers(gradients)


@pytest.mark.parametrize("name", CASES)
def test_rows_and_gradients(name: str) -> None:
    made, reader, place = CASES[name]
    results = run_ranks(exchange, len(made), name) if len(made) > 1 else [exchange(name)]
    for number, (found, gradients) in enumerate(results):
        read = [place[row] for row, who in enumerate(reader) if who == number]
        for key, value in made_rows(sum(map(len, made))).items():
            bits, expected = (each.contiguous().view(torch.uint8) for each in (found[key], value[read]))
            assert bits.equal(expected), key
            assert found[key].dtype == value.dtype
        sums = [sum(2.0**row for row, which in enumerate(place) if which == own) for own in made[number]]
        assert gradients["score"].tolist() == sums
        counts = [place.count(own) for own in made[number]]
        assert gradients["layers"][:, 0, 0].tolist() == counts
        assert gradients["layers"].shape == (len(counts), 2, 2)


def ragged_rows(total: int) -> Ragged:
    sizes = (torch.arange(total) * 2 + 1) % 4  # 1, 3, 1, 3
    return Ragged(torch.arange(float(sizes.sum())), sizes)


def exchange_ragged(name: str) -> tuple[Ragged, Ragged]:
    made, reader, place = CASES[name]
    planned = RowExchange.plan(made, np.array(reader), np.array(place))
    own = ragged_rows(sum(map(len, made)))[torch.tensor(made[rank()], dtype=torch.int64)]
    found = planned.to_readers({"weights": own, "score": torch.zeros(len(own))})["weights"]
    rows = torch.tensor([row for row, who in enumerate(reader) if who == rank()])
    gradient = Ragged(2.0 ** rows.float().repeat_interleave(found.sizes), found.sizes)
    return found, planned.to_makers({"weights": gradient})["weights"]


@pytest.mark.parametrize("name", CASES)
def test_ragged_rows_and_gradients(name: str) -> None:
    made, reader, place = CASES[name]
    results = run_ranks(exchange_ragged, len(made), name) if len(made) > 1 else [exchange_ragged(name)]
    whole = ragged_rows(sum(map(len, made)))
    for number, (found, gradient) in enumerate(results):
        read = whole[torch.tensor([place[row] for row, who in enumerate(reader) if who == number], dtype=torch.int64)]
        assert found.values.equal(read.values)
        assert found.sizes.equal(read.sizes)
        sums = [sum(2.0**row for row, which in enumerate(place) if which == own) for own in made[number]]
        sizes = whole.sizes[torch.tensor(made[number], dtype=torch.int64)]
        assert gradient.values.equal(torch.tensor(sums).repeat_interleave(sizes))


def received() -> tuple[int, int]:
    """The bytes that rank 0 reads of rank 1's rows, however many those are, and of how many ranks there are."""
    from engines.distributed.traffic import start_counting, traffic_statistics

    made = [list(range(number * 5, number * 5 + 5)) for number in range(world_size())]
    reader = np.repeat(np.arange(world_size()), 2)  # each reads the first row of the next rank, and its own
    place = np.array([row for number in range(world_size()) for row in ((number + 1) % world_size() * 5, number * 5)])
    start_counting()
    RowExchange.plan(made, reader, place).to_readers({"embedding": torch.zeros(5, 3)})
    counted = traffic_statistics()
    return counted["traffic/representations_received_bytes"], counted["traffic/representations_sent_bytes"]


def test_a_rank_receives_what_it_reads_alone() -> None:
    for ranks in (2, 3):
        assert run_ranks(received, ranks) == [(12, 12)] * ranks
