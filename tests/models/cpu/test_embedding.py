"""Embeddings with gradients of rows: torch's gradients, for one chunk and for several."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.cpu import embedding
from models.cpu.embedding import RowEmbedding


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MIN_VALUES", 1)


@pytest.mark.parametrize("padding", [None, 0])
def test_gradients_of_several_chunks(padding: int | None) -> None:
    rows = RowEmbedding(11, 4, padding_idx=padding)
    plain = nn.Embedding(11, 4, padding_idx=padding)
    plain.load_state_dict(rows.state_dict())
    for ids in (torch.tensor([[1, 2, 1], [0, 10, 0]]), torch.tensor([[3, 1]]), torch.tensor([[0, 0]])):
        weights = torch.randn(*ids.shape, 4)
        for module in (rows, plain):
            (module(ids) * weights).sum().backward()
        assert rows.weight.grad.layout == torch.strided
        torch.testing.assert_close(rows.weight.grad, plain.weight.grad)


def test_weights_that_the_output_layer_shares() -> None:
    rows = RowEmbedding(11, 4)
    plain = copy.deepcopy(rows)
    plain.__class__ = nn.Embedding
    for _ in range(2):
        for module in (rows, plain):
            (module(torch.tensor([[1, 2, 1]])) @ module.weight.t()).square().sum().backward()
        torch.testing.assert_close(rows.weight.grad, plain.weight.grad)


def test_only_trained_tables_of_the_cpu() -> None:
    frozen = RowEmbedding(11, 4).requires_grad_(False)
    assert not frozen(torch.tensor([1])).requires_grad
    with torch.no_grad():
        assert not RowEmbedding(11, 4)(torch.tensor([1])).requires_grad
    assert RowEmbedding(11, 4, device="meta")(torch.empty(3, dtype=torch.int64, device="meta")).is_meta
