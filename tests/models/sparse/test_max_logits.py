"""The largest logits of rows: values and gradients of the plain computation, and memory."""

from __future__ import annotations

import pytest
import torch

import models.sparse.max_logits as module
from engines.memory.live_bytes import LiveBytes
from models.packing.lengths import lengths_are_known
from models.sparse.max_logits import groups, max_logits

LENGTHS = [3, 7, 1, 7, 5]


def case(*, side: str = "right", dtype: torch.dtype = torch.float64, dim: int = 4, size: int = 11):
    longest = max(LENGTHS) + 1
    place = torch.arange(longest)
    if side == "left":
        place = place.flip(0)
    mask = (place < torch.tensor(LENGTHS).unsqueeze(1)).long()
    hidden = torch.randn(len(LENGTHS), longest, dim, dtype=dtype, requires_grad=True)
    weight = torch.randn(size, dim, dtype=dtype, requires_grad=True)
    bias = torch.randn(size, dtype=dtype, requires_grad=True)
    return hidden, mask, weight, bias


def plain(hidden, mask, weight, bias):
    logits = torch.nn.functional.linear(hidden, weight, bias) * mask.unsqueeze(-1)
    return logits.relu().amax(1)


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 12)
    monkeypatch.setattr(module, "BLOCK", 4)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("products", [module._sparse_products, module._dense_products])
def test_values_and_gradients_are_those_of_all_logits(side, products, monkeypatch):
    monkeypatch.setattr(module, "_sparse_products", products)
    inputs = case(side=side)
    found, expected = max_logits(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert torch.equal(max_logits(*inputs), found)
    assert (found == 0).any()
    assert (found > 0).any()
    gradient = torch.randn_like(found)
    learned = [inputs[0], *inputs[2:]]
    torch.testing.assert_close(
        torch.autograd.grad(found, learned, gradient), torch.autograd.grad(expected, learned, gradient)
    )


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_gradient_is_the_derivative(has_bias):
    hidden, mask, weight, bias = case()
    inputs = (hidden, weight, bias) if has_bias else (hidden, weight)
    assert torch.autograd.gradcheck(lambda h, w, b=None: max_logits(h, mask, w, b), inputs)


def test_a_frozen_weight_gets_no_gradient_and_a_row_of_padding_is_0():
    hidden, mask, weight, _ = case()
    mask[2] = 0
    found = max_logits(hidden, mask, weight.requires_grad_(False), None)
    assert (found[2] == 0).all()
    found.sum().backward()
    assert (hidden.grad[2] == 0).all()
    assert weight.grad is None
    assert max_logits(hidden[:0], mask[:0], weight, None).shape == (0, len(weight))


def test_known_lengths_are_read_and_groups_hold_rows_of_similar_length(monkeypatch):
    hidden, mask, weight, bias = case()
    monkeypatch.setattr(module, "GROUP", 12)
    with lengths_are_known(LENGTHS):
        torch.testing.assert_close(max_logits(hidden, mask, weight, bias), plain(hidden, mask, weight, bias))
    made = [rows.index.tolist() for rows in groups([*LENGTHS, 0, 40], torch.device("cpu"))]
    assert made == [[2, 0], [4], [1], [3], [6]]


class Live(LiveBytes):
    """Also counts what a sparse tensor holds."""

    def _count(self, tensor):
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            super()._count(part)


@pytest.mark.parametrize("products", [module._sparse_products, module._dense_products])
def test_memory_does_not_grow_with_tokens_times_vocabulary(products, monkeypatch):
    """Beside inputs, their gradients and [rows, vocabulary] there are blocks alone."""
    monkeypatch.setattr(module, "_sparse_products", products)
    monkeypatch.setattr(module, "GROUP", 128)
    monkeypatch.setattr(module, "BLOCK", 256)
    rows, size, dim, peaks = 4, 4096, 8, {}
    for tokens in (32, 256):
        hidden = torch.randn(rows, tokens, dim, requires_grad=True)
        mask, weight = torch.ones(rows, tokens).long(), torch.randn(size, dim, requires_grad=True)
        with Live([hidden, weight]) as live:
            max_logits(hidden, mask, weight, None).sum().backward()
        peaks[tokens] = live.peak - 6 * hidden.nbytes
    all_logits = rows * 256 * size * 4
    assert peaks[256] < 1.25 * peaks[32]
    assert peaks[256] < 0.1 * all_logits
