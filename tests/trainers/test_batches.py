"""Which batch a step trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trainers.batches import Batches


class Loader:
    """Gives batch numbers in place of lists, and counts how often it is started."""

    def __init__(self) -> None:
        self.starts: list[int] = []

    def iterate(self, first_batch: int) -> Iterator[list[Any]]:
        self.starts.append(first_batch)
        number = first_batch
        while True:
            yield [number]
            number += 1


def make_batches(steps_per_batch: int = 1) -> Batches:
    return Batches(Loader(), steps_per_batch, before_workers=lambda: None)


@pytest.mark.parametrize(
    ("skipped", "numbers"),
    [([], [0, 1, 2, 3]), ([1], [0, 2, 3, 4]), ([3, 0, 1], [2, 4, 5, 6])],
)
def test_batches_move_up_where_others_are_skipped(skipped: list[int], numbers: list[int]) -> None:
    batches = make_batches()
    assert [batches.number(step, skipped) for step in (1, 2, 3, 4)] == numbers
    assert [batches.for_step(step, skipped).examples for step in (1, 2, 3, 4)] == [[number] for number in numbers]


def test_several_steps_share_a_batch_that_is_read_once() -> None:
    batches = make_batches(steps_per_batch=2)
    assert [batches.for_step(step).number for step in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
    assert batches.loader.starts == [0]
    assert batches.for_step(2).number == 0  # after a rollback
    assert batches.loader.starts == [0, 0]


def test_the_remaining_batches_cover_those_that_may_take_the_place_of_others() -> None:
    batches = make_batches(steps_per_batch=2)
    assert batches.upcoming(3, 6, [], 0) == range(1, 3)
    assert batches.upcoming(3, 6, [1], 2) == range(2, 6)
    assert [batch.number for batch in batches.read(range(2, 4))] == [2, 3]
    assert batches.current is None


def test_the_next_batch_is_loaded_ahead_and_current_stays() -> None:
    batches = make_batches()
    assert batches.ahead(1) is None, "nothing has been started"
    first = batches.for_step(1)
    ahead = batches.ahead(2)
    assert ahead is not None
    assert ahead.number == 1
    assert batches.current is first
    assert batches.ahead(2) is ahead, "it is loaded once"
    assert batches.for_step(2) is ahead
    assert batches.loader.starts == [0]


def test_a_batch_ahead_takes_the_place_of_a_skipped_one_or_is_dropped() -> None:
    batches = make_batches()
    batches.for_step(1)
    ahead = batches.ahead(2)
    assert batches.for_step(1, skipped=[0]) is ahead  # batch 0 was not finite
    batches.ahead(2, skipped=[0])
    assert batches.for_step(1, skipped=[1]).number == 0  # back to the beginning
    assert batches.for_step(2, skipped=[1]).number == 2
    assert batches.loader.starts == [0, 0, 2]


def test_nothing_is_ahead_of_further_updates_on_a_batch() -> None:
    batches = make_batches(steps_per_batch=2)
    batches.for_step(1)
    assert batches.ahead(2) is None
    batches.for_step(2)
    assert batches.ahead(3).number == 1
    batches.restart()
    assert batches.ahead(3) is None
