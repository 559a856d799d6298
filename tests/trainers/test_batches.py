"""Which batch a step trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import ListBatch, ListExample, TokenSequences
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from trainers.batches import Batches, gather_batch


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


FIELDS = (
    "labels",
    "mask",
    "teacher_scores",
    "document_hashes",
    "query_hashes",
    "never_negatives",
    "isolated",
    "weights",
)


def example(number: int) -> ListExample:
    """A list of 1 to 3 documents; every third one has the texts of the first."""
    draw = np.random.default_rng(number % 3)
    size = 1 + number % 3
    rows = [draw.integers(0, 99, size=4 + place).tolist() for place in range(size + 1)]
    encoding = {"input_ids": rows, "truncated": [[number % 2, place % 2] for place in range(size + 1)]}
    return ListExample(
        query_id=f"q{number}",
        document_ids=[f"d{number}-{place}" for place in range(size)],
        labels=draw.normal(size=size).astype(np.float32),
        teacher_scores=draw.normal(size=size).astype(np.float32),
        sequences=TokenSequences.from_encoding(encoding),
        query_hash=number,
        document_hashes=np.arange(size) + 10 * number,
        weight=1 + number / 8,
        auxiliary={"teacher": TokenSequences.from_encoding(encoding)},
        source="facts",
        epoch=number,
        isolated=number == 1,
        never_negatives=np.arange(number, dtype=np.int64) * 10,
    )


def known(batch: ListBatch) -> dict[str, Any]:
    """All that a rank knows of a batch without tokens."""
    sequences, teacher = batch.sequences, batch.auxiliary_sequences("teacher")
    return {
        **{name: getattr(batch, name) for name in FIELDS},
        "lengths": torch.from_numpy(sequences.lengths),
        "repeats": torch.from_numpy(batch.repeats.place),
        "ids": [batch.sequence_ids(row) for row in range(len(sequences))],
        "truncation": (batch.truncation, batch.auxiliary_truncation("teacher")),
        "prefixes": sequences.common_prefixes(batch.sequences_per_list),
        "contents": torch.from_numpy(teacher.contents.copy()),
        "lists": [(each.source, each.epoch, each.weight) for each in batch.examples],
    }


def known_of_a_gathered_batch(lists: int) -> dict[str, Any]:
    return known(gather_batch(3, [example(number) for number in range(rank(), lists, world_size())]))


@pytest.mark.parametrize(("ranks", "lists"), [(2, 7), (3, 4)])
def test_all_ranks_know_the_batch_of_one_process(ranks: int, lists: int) -> None:
    expected = known(ListBatch(3, [example(number) for number in range(lists)]))
    for found in run_ranks(known_of_a_gathered_batch, ranks, lists):
        assert list(found) == list(expected)
        for name, value in expected.items():
            same = found[name].equal(value) if isinstance(value, Tensor) else found[name] == value
            assert same, (name, found[name], value)
