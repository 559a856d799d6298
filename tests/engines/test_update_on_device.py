"""An update is queued before the host knows whether the gradient is finite. If it is not, nothing changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engines.optimizers import OptimizerOptions
from engines.protocol import NotFinite
from engines.torch_engine import TorchEngineConfig


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.score = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"score": self.score(self.hidden(values).tanh()).squeeze(-1)}


def check_that_nan_changes_nothing(optimizer: str) -> None:
    """On the device of the engine: weights, moments, steps and schedule stay."""
    options = OptimizerOptions(name=optimizer, learning_rate=0.1)
    engine = TorchEngineConfig(precision="bf16").build(
        Scorer(), options, lambda each: LambdaLR(each, lambda update: 1.0 / (1 + update)), max_grad_norm=1.0
    )
    values = torch.randn(4, 8).to(engine.device)

    def step(factor: float, finite: bool) -> float:
        engine.backward(engine.forward({"values": values})["score"].sum() * factor, last=True)
        return engine.step(torch.tensor(finite, device=engine.device))

    def state() -> list[Tensor]:
        moments = [value for each in engine.optimizer.state.values() for value in each.values()]
        return [value.detach().clone() for value in (*engine.model.parameters(), *moments)]

    assert engine.updates_on_device
    with pytest.raises(NotFinite):
        step(math.nan, True)  # the very first one makes moments of 0
    assert step(1.0, True) > 0
    before = state()
    for factor, finite in ((math.nan, True), (math.inf, True), (1.0, False)):
        with pytest.raises(NotFinite):
            step(factor, finite)
    assert all(old.equal(new) for old, new in zip(before, state(), strict=True))
    assert engine.learning_rate() == pytest.approx(0.05), "one update"
    if optimizer == "adamw":
        assert {float(each["step"]) for each in engine.optimizer.state.values()} == {1.0}
    assert step(1.0, True) > 0
    assert not all(old.equal(new) for old, new in zip(before, state(), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_nan_changes_nothing(optimizer: str) -> None:
    check_that_nan_changes_nothing(optimizer)
