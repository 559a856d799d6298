"""Scoring: whole = chunked = sharded over ranks, without dropout, modes restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from data.batch import TokenSequences
from data.collate import Collator
from engines.distributed.collectives import gather_objects
from engines.distributed.testing import run_ranks
from inference.runner import ModuleRunner, similarity_of
from inference.score import represent_distinct, score_sequences, tokenize_sharded
from losses.math.similarity import COSINE, DOT

CPU = torch.device("cpu")


class Bag(nn.Module):
    """score: the sum of the sequence's token values; embedding: [sum, number of tokens]; counts its forward passes."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.Dropout(0.5).eval()
        self.calls = 0

    def forward(self, input_ids, attention_mask):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        self.shape = tuple(input_ids.shape)
        total = self.dropout((input_ids * attention_mask).sum(1).float())
        return {"score": total, "embedding": torch.stack([total, attention_mask.sum(1).float()], dim=1)}


def _sequences(count=13):
    return TokenSequences.from_encoding({"input_ids": [[row + 1] * (1 + row * 5 % 7) for row in range(count)]})


def _score(model, token_budget, *, name="score", padding=0):
    collator = Collator({"input_ids": padding}, token_budget)
    return score_sequences(ModuleRunner(model, CPU), _sequences(), collator, name)


EXPECTED = [float((row + 1) * (1 + row * 5 % 7)) for row in range(13)]


@pytest.mark.parametrize("token_budget", [1, 9, 1000])
def test_every_sequence_has_its_own_score_whatever_the_chunks(token_budget):
    scores = _score(Bag(), token_budget, padding=77)
    assert scores.dtype == torch.float32
    assert scores.tolist() == EXPECTED


def test_chunks_stay_within_the_budget():
    model = Bag()
    _score(model, 14)
    assert model.shape[0] * model.shape[1] <= 14
    assert model.calls > 3


def test_other_representations_keep_their_trailing_axes():
    embeddings = _score(Bag(), 9, name="embedding")
    assert embeddings.shape == (13, 2)
    assert embeddings[:, 0].tolist() == EXPECTED


def test_the_modes_of_all_modules_are_restored_even_after_an_error():
    model = Bag().train()
    model.frozen.eval()
    _score(model, 9)
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)
    with pytest.raises(KeyError):
        _score(model, 9, name="missing")
    assert (model.training, model.frozen.training) == (True, False)


def test_the_similarity_is_the_one_that_the_model_names():
    model = Bag()
    assert similarity_of(model) == DOT  # a reranker names none
    model.similarity = "cosine"
    assert similarity_of(model) == COSINE


def _on_a_rank(token_budget: int) -> tuple[list[float], list[int], int]:
    model = Bag()
    scores = _score(model, token_budget).tolist()
    asked = []

    def tokenize(part: slice) -> dict[str, list[list[int]]]:
        asked.append(part)
        return {"input_ids": [[row] * (row + 1) for row in range(5)][part]}

    calls = model.calls
    for sizes in ([1] * 5, [2, 0, 3], [5], [0, 4, 1, 0]):
        asked.clear()
        rows = tokenize_sharded(tokenize, sizes)
        assert rows.lengths.tolist() == [1, 2, 3, 4, 5]
        assert sorted(row for each in gather_objects(asked) for part in each for row in range(5)[part]) == [*range(5)]
        assert all({part.start, part.stop} <= {0, *np.cumsum(sizes).tolist()} for part in asked), "whole lists"
        held = [token for each in gather_objects(rows.features["input_ids"].tolist()) for token in each]
        assert held == [row for row in range(5) for _ in range(row + 1)], "each token is on one rank"
        collator = Collator({"input_ids": 0}, token_budget)
        assert score_sequences(ModuleRunner(model, CPU), rows, collator).tolist() == [0, 2, 6, 12, 20]
        assert represent_distinct(ModuleRunner(model, CPU), rows, collator, sizes=sizes)["score"].tolist()[4] == 20
    return scores, rows.lengths.tolist(), calls


@pytest.mark.parametrize("token_budget", [9, 1000])
def test_two_ranks_agree_with_one_and_run_equally_many_forwards(token_budget):
    results = run_ranks(_on_a_rank, 2, token_budget)
    assert [scores for scores, _, _ in results] == [EXPECTED, EXPECTED]
    assert len({calls for _, _, calls in results}) == 1  # with budget 1000 one rank has nothing to do but runs along
