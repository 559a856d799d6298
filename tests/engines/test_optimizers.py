"""The parameters that are updated, and those with weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.optimizers import OptimizerOptions


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_decay(name: str) -> None:
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = OptimizerOptions(name=name, learning_rate=0.1, weight_decay=0.5).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key] * (0.95 if key == "linear.weight" else 1.0))


def test_adamw_takes_its_betas() -> None:
    optimizer = OptimizerOptions(betas=(0.8, 0.9)).build(Model())
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def test_no_empty_group() -> None:
    assert len(OptimizerOptions().build(nn.Linear(2, 2, bias=False)).param_groups) == 1


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        OptimizerOptions().build(nn.Linear(2, 2).requires_grad_(False))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"trainer.optimizer must be one of adamw, adamw_8bit, sgd, got 'adam'"):
        OptimizerOptions(name="adam")
