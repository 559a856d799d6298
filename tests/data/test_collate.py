import pytest

from data.batch import TokenSequences
from data.collate import Collator, chunks_of_rank, plan_chunks

LENGTHS = [5, 30, 7, 7, 12, 3, 30, 1, 100]


def test_every_row_is_in_one_chunk_within_the_budget():
    chunks = plan_chunks(LENGTHS, token_budget=60)
    assert sorted(row for chunk in chunks for row in chunk) == list(range(len(LENGTHS)))
    assert all(len(chunk) * max(LENGTHS[row] for row in chunk) <= 60 for chunk in chunks[1:])
    assert chunks[0] == [8]  # longer than the budget: alone
    assert chunks[1] == [1, 6]


def test_the_cost_of_a_chunk_is_the_size_of_its_tensors():
    sequences = TokenSequences.from_encoding({"input_ids": [[1] * length for length in LENGTHS]})
    collator = Collator({}, token_budget=60)
    for chunk in collator.plan(LENGTHS):
        shape = collator.collate(sequences, chunk)["input_ids"].shape
        assert collator.shape(LENGTHS, chunk) == tuple(shape)
        assert collator.cost(LENGTHS, chunk) == shape.numel()
    assert collator.cost(LENGTHS, []) == 0


def test_chunks_are_about_equal():
    """12 rows of 10 tokens and room for 10 of them: 6 and 6, and not 10 and 2."""
    assert [len(chunk) for chunk in plan_chunks([10] * 12, token_budget=100)] == [6, 6]
    lengths = [20 + 13 * row % 40 for row in range(200)]
    costs = [len(chunk) * lengths[chunk[0]] for chunk in plan_chunks(lengths, token_budget=1000)]
    assert len(costs) == 16
    assert max(costs) - min(costs) < 2 * max(lengths)


@pytest.mark.parametrize(
    ("fit", "chunks"), [(48, 1), (24, 2), (16, 4), (12, 4), (10, 8), (6, 8), (5, 16), (2, 24), (1, 48)]
)
def test_ranks_can_share_the_chunks_evenly(fit, chunks):
    """48 equal rows, of which `fit` are within the budget: 5 chunks become 8, and 10 become 16."""
    plan = plan_chunks([10] * 48, token_budget=10 * fit)
    assert len(plan) == chunks
    assert all(len(chunk) <= fit for chunk in plan)


def test_chunks_of_few_long_rows_are_halved_until_ranks_can_share_them():
    """7 chunks of 2 rows: the next smaller budget gives 14, so one is halved."""
    assert [len(chunk) for chunk in plan_chunks([10] * 14, token_budget=20)] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert len(plan_chunks([10] * 3, token_budget=10)) == 3  # single rows cannot be


def test_packed_chunks_bound_their_tokens_and_their_padding():
    chunks = plan_chunks(LENGTHS, token_budget=60, padded_ratio=2)
    assert sorted(row for chunk in chunks for row in chunk) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[row] for row in chunk) <= 60 for chunk in chunks[1:])
    assert all(len(chunk) * LENGTHS[chunk[0]] <= 120 for chunk in chunks[1:])


@pytest.mark.parametrize(("lengths", "chunks"), [([], []), ([0], [[0]]), ([7], [[0]]), ([3, 9], [[1], [0]])])
def test_no_one_and_two_rows(lengths, chunks):
    assert plan_chunks(lengths, token_budget=9) == chunks


def test_ranks_share_all_chunks_in_equal_rounds():
    chunks = plan_chunks(LENGTHS, token_budget=40)
    parts = [chunks_of_rank(chunks, rank, 3) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(chunk for part in parts for chunk in part if chunk) == sorted(chunks)
    assert chunks_of_rank([[0]], 1, 2) == [[]]


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="token_budget must be at least 1, got 0"):
        plan_chunks(LENGTHS, token_budget=0)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_compute_about_as_many_tokens(ranks):
    """192 rows of 7 chunks' tokens: no rank waits long for another, on any number of ranks."""
    lengths = [12 + 29 * row % 51 for row in range(192)]
    chunks = plan_chunks(lengths, token_budget=1024)
    tokens = [sum(lengths[row] for chunk in chunks[rank::ranks] for row in chunk) for rank in range(ranks)]
    assert max(tokens) < 1.1 * sum(tokens) / ranks  # of 7 chunks: 1.14 on two ranks
