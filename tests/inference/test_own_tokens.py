"""Each rank gets the tokens of its own chunks, and no byte of those of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data.batch import ListExample, TokenSequences
from data.collate import Collator, chunks_of_rank, pad
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from engines.distributed.traffic import start_counting, traffic_statistics
from inference.own_tokens import fetch_own_tokens
from trainers.batches import gather_batch

LISTS, DOCUMENTS = 8, 3
BYTES = 4 * 2  # of a token: two features of int32


def example(number: int, tokens: int) -> ListExample:
    """A list of texts of `tokens` tokens and more."""
    draw = np.random.default_rng(number)
    rows = [draw.integers(5, 99, size=tokens + 2 * number + place).tolist() for place in range(DOCUMENTS)]
    return ListExample(
        query_id=f"q{number}",
        document_ids=[f"d{number}-{place}" for place in range(DOCUMENTS)],
        labels=np.eye(DOCUMENTS, dtype=np.float32)[0],
        teacher_scores=np.zeros(DOCUMENTS, dtype=np.float32),
        sequences=TokenSequences.from_encoding({"input_ids": rows, "token_type_ids": rows}),
        query_hash=number,
        document_hashes=np.arange(DOCUMENTS) + 10 * number,
    )


def fetch(lists: int, tokens: int, budget: int) -> dict[str, Any]:
    """What this rank has and has received, of a batch of `lists` lists."""
    start_counting()
    share = [example(number, tokens) for number in range(rank(), lists, world_size())]
    sequences = gather_batch(0, share).sequences
    chunks = Collator({}, budget).plan(sequences.lengths.tolist())
    spare = int(sequences.lengths.argmin())
    found = fetch_own_tokens(sequences, chunks, spare=spare)
    traffic = traffic_statistics()
    own = chunks_of_rank(chunks, rank(), world_size())
    wanted = sorted({index for chunk in own for index in chunk or [spare]})
    again = fetch_own_tokens(found, chunks[::-1], spare=spare) if found.shared is not None else found
    last = chunks_of_rank(chunks[::-1], rank(), world_size())[0]
    return {
        "rows": {index: pad(found, [index], {})["input_ids"][0].tolist() for index in wanted},
        "types": pad(found, wanted, {})["token_type_ids"].tolist(),
        "again": {index: pad(again, [index], {})["input_ids"][0].tolist() for index in last},
        "held": len(found.features["input_ids"]),
        "traffic": traffic,
    }


@pytest.mark.parametrize(
    ("ranks", "lists", "budget"),
    [(1, LISTS, 60), (2, LISTS, 60), (4, LISTS, 60), (4, 2, 10_000), (2, 1, 20)],
    ids=["one", "two", "four", "more ranks than lists", "a rank without lists"],
)
def test_each_rank_has_the_tokens_of_its_chunks(ranks: int, lists: int, budget: int) -> None:
    expected = [row for number in range(lists) for row in rows_of(number)]
    results = run_ranks(fetch, ranks, lists, 10, budget)
    assert {index for found in results for index in found["rows"]} == {*range(len(expected))}
    for found in results:
        assert found["rows"] == {index: expected[index] for index in found["rows"]}
        assert found["again"] == {index: expected[index] for index in found["again"]}, "handed on from where they are"
        longest = max(map(len, found["rows"].values()))
        assert found["types"] == [row + [0] * (longest - len(row)) for row in found["rows"].values()]
        if ranks > 1:
            assert found["held"] == sum(map(len, found["rows"].values()))


def rows_of(number: int) -> list[list[int]]:
    sequences = example(number, 10).sequences
    return [pad(sequences, [place], {})["input_ids"][0].tolist() for place in range(DOCUMENTS)]


def test_the_bytes_that_a_rank_receives_do_not_grow_with_the_tokens_of_others() -> None:
    """Twice the ranks with twice the lists: each rank runs about as much as before."""
    most = {}
    for ranks in (1, 2, 4):
        results = run_ranks(fetch_twice, ranks, 4 * ranks)
        for short, long in results:
            assert all(name in long["traffic"] for name in short["traffic"])
            if ranks == 1:
                assert not short["traffic"], "nothing is exchanged"
                continue
            for found in (short, long):
                received = found["traffic"]["traffic/tokens_received_bytes"]
                assert received <= BYTES * found["held"], "those of its own chunks alone"
            name = "traffic/lists_received_bytes"
            assert short["traffic"][name] == long["traffic"][name] > 0, "of lists all know numbers, not tokens"
        most[ranks] = max(
            (found["held"], found["traffic"].get("traffic/tokens_received_bytes", 0.0)) for _, found in results
        )
    whole = 4 * 4 * DOCUMENTS * 300 * BYTES  # at least: all tokens of the step of 4 ranks
    assert most[4][1] < whole / 3
    assert most[4][0] < 1.5 * most[2][0] < 1.5 * 1.5 * most[1][0]


def fetch_twice(lists: int) -> list[dict[str, Any]]:
    return [fetch(lists, tokens, 4 * tokens) for tokens in (10, 300)]
