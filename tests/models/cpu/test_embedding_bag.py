"""Embedding bags with gradients of rows: torch's sums and gradients, for one chunk and for several."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from models.cpu.embedding_bag import EmbeddingBag


def plain(table: nn.Module, ids: Tensor, shares: Tensor) -> Tensor:
    return embedding_bag(ids, table.weight, mode="sum", per_sample_weights=shares)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_several_chunks(frozen: bool) -> None:
    own = EmbeddingBag(11, 4)
    other = copy.deepcopy(own)
    for number, ids in enumerate(([[1, 2, 1], [0, 10, 0]], [[3, 1]], [[0, 0]])):
        tokens = torch.tensor(ids)
        shares = torch.rand(tokens.shape)
        shares[0, -1] = 0.0  # padding
        upstream = torch.randn(len(ids), 4)
        outputs = own(tokens, shares), plain(other, tokens, shares)
        assert torch.equal(*outputs)
        for output in outputs:
            (output * upstream).sum().backward()
        assert own.weight.grad.layout == torch.strided
        torch.testing.assert_close(own.weight.grad, other.weight.grad)
        if number == 0:
            assert not own.weight.grad[3].any()
    own.requires_grad_(not frozen)
    assert own(tokens, shares).requires_grad is not frozen


def test_rows_of_padding_alone_have_no_gradient() -> None:
    table = EmbeddingBag(5, 3)
    output = table(torch.tensor([[0, 0]]), torch.zeros(1, 2))
    assert not output.any()
    output.sum().backward()
    assert not table.weight.grad.any()


def test_traced_without_data() -> None:
    table = EmbeddingBag(11, 4, device="meta")
    output = table(torch.empty(2, 3, dtype=torch.int64, device="meta"), torch.empty(2, 3, device="meta"))
    assert output.is_meta
    assert output.shape == (2, 4)
