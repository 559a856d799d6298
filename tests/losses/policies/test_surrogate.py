"""The ratio and the reductions of the surrogates, by hand; TRL's are compared in test_trl_grpo.py."""

from __future__ import annotations

import pytest
import torch

from losses.policies.surrogate import importance_ratio, reduce_positions


def test_importance_sampling_levels():
    log_ratio = torch.tensor([[[0.1, 0.3, 0.0]], [[0.2, 0.0, 0.0]]])
    position_mask = torch.tensor([[[True, True, False]], [[True, False, False]]])
    expected = {"token": log_ratio, "sequence": [[[0.2]], [[0.2]]], "sequence_product": [[[0.4]], [[0.2]]]}
    for level, values in expected.items():
        ratio = importance_ratio(log_ratio, position_mask, level)
        torch.testing.assert_close(ratio, torch.as_tensor(values).exp())


def test_the_ratio_of_a_long_ranking_does_not_overflow():
    log_ratio = torch.full((1, 2, 1000), 1.0)
    ratio = importance_ratio(log_ratio, torch.ones(1, 1, 1000, dtype=torch.bool), "sequence_product")
    assert ratio.isfinite().all()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("sum", 7 / 4), ("grpo", 1.0), ("bnpo", 1.0), ("dapo", 1.0), ("cispo", 1.0), ("dr_grpo", 7 / 12)],
)
def test_denominators_count_only_the_lists_that_count(loss_type, expected):
    """Three lists of 2 rankings: of 3 and of half a position on average (3 + 3 + 1 + 0 = 7), and one left out."""
    position_mask = torch.tensor([[[1, 1, 1], [1, 1, 1]], [[1, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]).bool()
    loss = torch.ones(3, 2, 3)
    loss[2] = torch.nan
    list_mask = torch.tensor([True, True, False])
    value = reduce_positions(loss, position_mask, list_mask, loss_type=loss_type, num_positions=3)
    if loss_type == "grpo":
        expected = 3 / 4  # the ranking without positions counts as one of loss 0, as in TRL
    assert value.item() == pytest.approx(expected)
    none = reduce_positions(loss, position_mask, list_mask & False, loss_type=loss_type, num_positions=3)
    assert none == 0
