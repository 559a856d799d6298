"""Pooling by hand: two rows, of which the second has padding, on either side."""

from __future__ import annotations

import math

import pytest
import torch

from models.pooling import OLD_NAMES, POOLINGS, pool, pooling_config, pooling_modes

ROWS = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [5.0, 6.0]], [[7.0, 8.0], [-9.0, 10.0], [99.0, 99.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
BY_HAND = {
    "cls": [[1.0, 2.0], [7.0, 8.0]],
    "max": [[5.0, 6.0], [7.0, 10.0]],
    "mean": [[3.0, 4 / 3], [-1.0, 9.0]],
    "mean_sqrt_len_tokens": [[9 / math.sqrt(3), 4 / math.sqrt(3)], [-2 / math.sqrt(2), 18 / math.sqrt(2)]],
    "weightedmean": [[22 / 6, 12 / 6], [-11 / 3, 28 / 3]],
    "lasttoken": [[5.0, 6.0], [-9.0, 10.0]],
}


@pytest.mark.parametrize("mode", list(POOLINGS))
def test_by_hand(mode):
    torch.testing.assert_close(pool(ROWS, MASK, [mode]), torch.tensor(BY_HAND[mode]))
    padded_left = pool(ROWS.roll(1, 1)[1:], torch.tensor([[0, 1, 1]]), [mode])
    torch.testing.assert_close(padded_left, torch.tensor(BY_HAND[mode][1:]))


def test_several_modes_are_concatenated():
    expected = torch.cat([torch.tensor(BY_HAND["mean"]), torch.tensor(BY_HAND["cls"])], dim=1)
    torch.testing.assert_close(pool(ROWS, MASK, ["mean", "cls"]), expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [3.0, -4.0]),
        ("max", [5.0, 6.0]),
        ("mean", [4.0, 1.0]),
        ("mean_sqrt_len_tokens", [8 / math.sqrt(2), 2 / math.sqrt(2)]),
        ("weightedmean", [21 / 5, 10 / 5]),  # a token keeps its position's weight: 2 and 3
        ("lasttoken", [5.0, 6.0]),
    ],
)
def test_tokens_left_out(mode, expected):
    pooled = torch.tensor([[0, 1, 1]])
    torch.testing.assert_close(pool(ROWS[:1], MASK[:1], [mode], pooled), torch.tensor([expected]))


@pytest.mark.parametrize("mode", list(POOLINGS))
def test_half_precision_is_pooled_in_float32_and_padding_gets_no_gradient(mode):
    tokens = ROWS.bfloat16().requires_grad_()
    pooled = pool(tokens, MASK, [mode])
    assert pooled.dtype == torch.float32
    pooled.sum().backward()
    assert tokens.grad[1, 2].eq(0).all()
    assert tokens.grad[0].isfinite().all()


@pytest.mark.parametrize("modes", [[mode] for mode in POOLINGS] + [["cls", "mean"], ["mean", "cls"]])
def test_a_written_configuration_is_read_again(modes):
    assert pooling_modes(pooling_config(modes)) == modes


def test_old_names_are_written_where_their_order_holds():
    assert set(pooling_config(["cls", "mean"])) == set(OLD_NAMES)
    assert pooling_config(["mean", "cls"]) == {"pooling_mode": ["mean", "cls"]}
    assert pooling_modes({}) == ["mean"]
