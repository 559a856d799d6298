from dataclasses import replace

import numpy as np
import torch

from data.batch import ListBatch, ListExample, TokenSequences
from data.collate import pad


def rows(*lengths: int, start: int = 1) -> TokenSequences:
    ids = [[start + i] * n for i, n in enumerate(lengths)]
    types = [[0] * (n - 1) + [1] for n in lengths]
    return TokenSequences.from_encoding(
        {"input_ids": ids, "token_type_ids": types, "attention_mask": [[1] * n for n in lengths]}
    )


def example(name: str, *lengths: int, start: int = 1) -> ListExample:
    labels = np.arange(len(lengths), dtype=np.float32)
    names = [f"{name}{i}" for i in range(len(lengths))]
    keys = np.arange(len(lengths))
    teacher = np.full(len(lengths), np.nan, np.float32)
    return ListExample(name, names, labels, teacher, rows(*lengths, start=start), start, keys)


def test_padding_restores_the_chosen_rows():
    batch = pad(rows(2, 1, 3), [2, 1], {"input_ids": 9})
    assert batch["input_ids"].tolist() == [[3, 3, 3], [2, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_concatenation_keeps_rows():
    joined = TokenSequences.concatenate([rows(2, 1), rows(3, start=7)])
    assert len(joined) == 3
    assert pad(joined, [2, 0], {})["input_ids"].tolist() == [[7, 7, 7], [1, 1, 0]]


def test_a_batch_of_ragged_lists():
    batch = ListBatch(0, [example("a", 2, 1, 3), example("b", 4, start=5)])
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.labels.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.teacher_scores.isnan().tolist() == [[True, True, True], [True, False, False]]
    assert len(batch.sequences) == 4


def test_lists_of_rows_carry_gradients():
    batch = ListBatch(0, [example("a", 1, 1), example("b", 1)])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    lists = batch.to_lists(values)
    assert lists.tolist() == [[1, 2], [3, 0]]
    (lists * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    assert values.grad.tolist() == [1, 10, 100]


def test_duplicates_are_counted_by_text_across_lists():
    apart, same = example("b", 4, 4, start=5), example("c", 1, 1, start=1)
    apart.document_hashes[:] = [7, 7]  # twice in its own list
    assert ListBatch(0, [example("a", 2, 1, 3), apart]).num_duplicates == 0
    assert ListBatch(0, [example("a", 2, 1, 3), same]).num_duplicates == 3  # a query and two documents
    assert ListBatch(0, [example("a", 2, 1, 3), same, apart, apart]).num_duplicates == 5


def test_texts_that_are_never_negatives_are_those_of_the_batch():
    first, second = example("a", 2, 1, 3), example("b", 4, start=5)
    assert ListBatch(0, [first, second]).never_negatives.shape == (0, 2)
    second.document_hashes[:] = [7]
    first = replace(first, never_negatives=np.array([-5, 1, 7]))
    second = replace(second, never_negatives=np.array([7, 9]))
    assert ListBatch(0, [first, second]).never_negatives.tolist() == [[0, 1], [0, 7], [1, 7]]
