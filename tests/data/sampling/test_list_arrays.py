"""Lists that travel as arrays are the same lists, without their tokens."""

from __future__ import annotations

import numpy as np
import pytest

from data.batch import ListBatch, ListExample, TokenSequences
from data.sampling.list_arrays import arrays_of, divide, lists_of


def sequences(draw: np.random.Generator, size: int) -> TokenSequences:
    """Rows that begin alike, one of which is the whole of that beginning and a token."""
    prefix = [7, 7, 7]
    rows = [prefix + draw.integers(0, 9, size=number).tolist() for number in range(1, size + 1)]
    cut = draw.integers(0, 2, size=(size, 2)).tolist()
    types = [[0] * len(row) for row in rows]
    return TokenSequences.from_encoding({"input_ids": rows, "token_type_ids": types, "truncated": cut})


def example(number: int, size: int) -> ListExample:
    draw = np.random.default_rng(number)
    return ListExample(
        query_id=f"q{number} 日本 \ud800",  # ids of JSON may hold half of a pair of surrogates
        document_ids=[f"d{number}-{place} é" * place for place in range(size)],
        labels=draw.normal(size=size).astype(np.float32),
        teacher_scores=np.where(draw.random(size) < 0.5, np.nan, 1.5).astype(np.float32),
        sequences=sequences(draw, size + 1),
        query_hash=-(2**62) + number,
        document_hashes=draw.integers(-(2**62), 2**62, size=size),
        weight=0.1 * number,
        auxiliary={"teacher": sequences(draw, size), "guide": sequences(draw, size + 1)},
        source="наука",
        epoch=number,
        isolated=bool(number % 2),
        never_negatives=draw.integers(0, 99, size=number).astype(np.int64),
    )


def test_lists_come_back_without_their_tokens() -> None:
    examples = [example(number, size) for number, size in enumerate([3, 1, 0, 5])]
    found = lists_of(arrays_of(divide(examples, holder=4)), holder=4)
    assert len(found) == len(examples)
    for one, two in zip(examples, found, strict=True):
        for name in ("query_id", "document_ids", "query_hash", "weight", "source", "epoch", "isolated"):
            assert getattr(one, name) == getattr(two, name), name
        for name in ("labels", "teacher_scores", "document_hashes", "never_negatives"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
        assert list(two.auxiliary) == ["teacher", "guide"]
        for full, divided in zip(
            [one.sequences, *one.auxiliary.values()], [two.sequences, *two.auxiliary.values()], strict=True
        ):
            assert {name: len(values) for name, values in divided.features.items()} == dict.fromkeys(full.features, 0)
            np.testing.assert_array_equal(full.lengths, divided.lengths)
            np.testing.assert_array_equal(full.truncated, divided.truncated)
            np.testing.assert_array_equal(full.contents, divided.contents)
            assert full.common_prefixes([len(full)]) == divided.common_prefixes([len(full)])
            assert set(divided.shared["holder"].tolist()) <= {4}
            assert not divided.shared["here"].any()


def test_no_lists_are_no_arrays() -> None:
    assert lists_of(arrays_of([]), holder=0) == []


def test_a_divided_batch_has_the_tokens_of_its_own_lists_and_the_repeats_of_all() -> None:
    examples = [example(1, 3), example(2, 2), example(1, 3)]
    whole = ListBatch(0, examples)
    others = lists_of(arrays_of(divide(examples[1:], holder=1)), holder=1)
    batch = ListBatch(0, [*divide(examples[:1], holder=0), *others])
    np.testing.assert_array_equal(batch.repeats.place, whole.repeats.place)
    np.testing.assert_array_equal(batch.repeats.first, whole.repeats.first)
    assert batch.sequences.common_prefixes(batch.sequences_per_list) == [3, 3, 3]
    chosen = np.array([5, 2, 0])
    part, expected = batch.sequences.select(chosen), whole.sequences.select(chosen)
    np.testing.assert_array_equal(part.lengths, expected.lengths)
    np.testing.assert_array_equal(part.starts, [0, 0, expected.lengths[1], expected.lengths[1:].sum()])
    np.testing.assert_array_equal(part.features["input_ids"], expected.features["input_ids"][expected.lengths[0] :])
    assert batch.truncation == whole.truncation
    with pytest.raises(AssertionError, match="all are divided over the ranks, or none"):
        TokenSequences.concatenate([batch.sequences, whole.sequences])
