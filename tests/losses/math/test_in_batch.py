"""Pairs, texts that are positives in some list, and blocks."""

from __future__ import annotations

import torch

from losses.math import in_batch
from losses.math.in_batch import InBatch
from losses.math.similarity import DOT

LABELS = torch.tensor([[1, 0, 0], [2, 0, 0], [0, 0, 1]])
EVERY, LISTS = torch.arange(5), torch.arange(3)
MASK = torch.tensor([[True, True, False], [True, False, False], [False, True, True]])


def batch(**hashes: torch.Tensor) -> InBatch:
    documents = torch.arange(9.0).reshape(3, 3, 1)
    return InBatch.from_lists(torch.tensor([[-1.0], [-2.0], [-3.0]]), documents, LABELS, MASK, DOT, **hashes)


def test_documents_stand_in_a_row_without_padding():
    flat = batch()
    assert flat.documents.flatten().tolist() == [0, 1, 3, 7, 8]
    assert flat.list_index.tolist() == [0, 0, 1, 2, 2]
    assert flat.pair_queries.tolist() == [0, 1, 2]
    assert flat.pair_documents.tolist() == [0, 2, 4]
    assert flat.in_own_list(torch.tensor([2]), EVERY).tolist() == [[False, False, False, True, True]]
    rows = {"query": flat.queries[[1]]}
    (found,) = flat.over_tiles(lambda tile: (tile.rows["query"] @ tile.columns["text"].T).unbind(1)[3:4], rows, "doc")
    assert found.tolist() == [[-14]]


def test_without_keys_every_text_is_one_of_its_own():
    flat = batch()
    own = torch.tensor([[True, False, False, False, False], [False, False, True, False, False]])
    assert torch.equal(flat.never_negative_documents(torch.tensor([0, 1]), EVERY), own)
    found = flat.never_negative_queries(torch.tensor([2, 4, 1]), LISTS).int().tolist()
    assert found == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_equal_texts():
    """Queries 0 and 2 are one text: their positives are each other's. Document 1 is a copy of list 1's positive."""
    hashes = torch.tensor([[-5, 40, 5], [40, 5, 5], [5, -6, -7]])
    flat = batch(query_hashes=torch.tensor([2**60, 3, 2**60]), document_hashes=hashes)
    found = flat.never_negative_documents(torch.tensor([0, 1, 2]), EVERY).int().tolist()
    assert found == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert flat.never_negative_queries(torch.tensor([0, 1, 3]), LISTS).int().tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_negatives():
    flat = batch()
    found = {
        name: flat.negative_documents(torch.tensor([0]), EVERY, name)[0].int().tolist() for name in in_batch.IN_BATCH
    }
    assert found == {"all": [0, 1, 1, 1, 1], "positives": [0, 1, 1, 0, 1], "none": [0, 1, 0, 0, 0]}
    assert flat.negative_queries(torch.tensor([0]), LISTS).int().tolist() == [[0, 1, 1]]


def test_mean_over_queries():
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 3, 0]])
    flat = InBatch.from_lists(torch.zeros(3, 1), torch.zeros(3, 3, 1), labels, LABELS >= 0, DOT)
    values = torch.tensor([1.0, 3.0, 10.0])
    assert flat.mean_over_queries(values, None) == (2 + 10) / 2
    assert flat.mean_over_queries(values, torch.tensor([2.0, 9.0, 0.5])) == (2 * 2 + 0.5 * 10) / 2


def test_texts_that_are_never_negatives():
    """Of list 0: the text 8, twice in other lists; of list 2, whose query is equal to query 0: the text 9."""
    hashes = torch.tensor([[1, 2, -1], [8, -1, -1], [-1, 9, 8]])
    pairs = torch.tensor([[0, 8], [2, 9], [0, 1000], [0, 8]])
    flat = batch(query_hashes=torch.tensor([5, 6, 5]), document_hashes=hashes, never_negatives=pairs)
    found = flat.never_negative_documents(torch.tensor([0, 1, 2]), EVERY).int().tolist()
    assert found == [[1, 0, 1, 1, 1], [0, 0, 1, 0, 1], [1, 0, 1, 1, 1]]
    assert flat.never_negative_queries(torch.tensor([1, 2, 3]), LISTS).int().tolist() == [
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 1],
    ]
    assert flat.pair_documents.tolist() == [0, 2, 4], "no further pairs to learn from"


def test_a_relation_has_the_columns_of_its_pairs():
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randint(5, (12,), generator=generator), torch.randint(4, (12,), generator=generator)
    matrix = torch.zeros(5, 4, dtype=torch.bool)
    matrix[rows, columns] = True
    cpu = torch.device("cpu")
    relation = in_batch.Relation.of_pairs(rows, columns, 5, 4, cpu)
    for chosen in ([], [3], [4, 0, 0, 2, 1]):
        for others in ([], [2], [0, 1, 2, 3], [3, 1, 3]):
            found = relation.matrix(*(torch.tensor(each, dtype=torch.int64) for each in (chosen, others)))
            assert torch.equal(found, matrix[chosen][:, others])
    empty = in_batch.Relation.of_pairs(rows[:0], columns[:0], 5, 0, cpu)
    assert not empty.matrix(torch.tensor([1]), torch.arange(0)).numel()
