"""Counted operations: closed forms of a linear layer and of attention, and any chunk from four."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from engines.memory.live_bytes import FakeTensorModel
from recipes.cost_plan.operations import FlopsOfChunks

HEADS, WIDTH = 2, 16
FEATURES = {"input_ids": 0, "attention_mask": 1}
SHAPES = [(4, 10), (2, 20), (3, 14)]


class Model(nn.Module):
    def __init__(self, *, attends: bool, frozen: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, HEADS * WIDTH)
        self.linear = nn.Linear(HEADS * WIDTH, HEADS * WIDTH, bias=False)
        self.linear.weight.requires_grad_(not frozen)
        self.attends = attends

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.linear(self.embedding(input_ids))
        if self.attends:
            heads = hidden.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
            hidden = scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return {"score": hidden.sum((1, 2))}


def flops(**options: bool) -> FlopsOfChunks:
    return FlopsOfChunks(FakeTensorModel(Model(**options), autocast=None), FEATURES, SHAPES)


def test_a_linear_layer_has_one_product_forward_and_two_backward() -> None:
    product = 2 * 5 * 8 * (HEADS * WIDTH) ** 2
    found = flops(attends=False)((5, 8))
    assert (found.forward, found.backward) == pytest.approx((product, 2 * product), rel=1e-6)
    assert flops(attends=False, frozen=True)((5, 8)).backward == pytest.approx(product, rel=1e-6)


def test_attention_has_two_products_forward_and_five_backward() -> None:
    product = 2 * 5 * HEADS * 8 * 8 * WIDTH
    plain, attending = flops(attends=False)((5, 8)), flops(attends=True)((5, 8))
    assert attending.forward - plain.forward == pytest.approx(2 * product, rel=1e-6)
    assert attending.backward - plain.backward == pytest.approx(5 * product, rel=1e-6)


def test_counting_leaves_no_gradient() -> None:
    model = FakeTensorModel(Model(attends=True), autocast=torch.bfloat16)
    assert FlopsOfChunks(model, FEATURES, SHAPES)((1, 4)).backward > 0
    assert all(parameter.grad is None for parameter in model.model.parameters())
