"""The computed memory of each engine equals what the engine really holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed.testing import run_ranks
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, checkpoint_bytes
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig

BIG = Parameters(total=100_000_000, trainable=100_000_000, largest=30_000_000)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(0, 4, 4, 8), (1, 4, 4, 12 / 8), (2, 4, 4 / 8, 12 / 8), (3, 4 / 8, 4 / 8, 8 / 8)],
)
def test_bytes_per_weight_on_8_ranks(stage: int, weights: float, gradients: float, optimizer: float) -> None:
    found = DeepSpeedEngineConfig(stage=stage, coalesce=False).state_bytes(BIG, ranks=8, optimizer="adamw")
    per_weight = [part / BIG.total for part in (found.weights, found.gradients, found.optimizer)]
    assert per_weight == [weights, gradients, optimizer]


def test_what_options_change() -> None:
    def of(**options):
        return DeepSpeedEngineConfig(**options).state_bytes(BIG, ranks=4, optimizer="adamw")

    assert of(stage=2, coalesce=True).gradients == 4 * BIG.total
    assert of(stage=2, coalesce=True).reduction == 0
    assert of(stage=2, coalesce=False).gradients == BIG.total
    offloaded = of(stage=2, offload="optimizer")
    assert (offloaded.optimizer, offloaded.host) == (0, (12 + 4) / 4 * BIG.total)
    assert of(stage=3, offload="all").weights == 0
    small_buckets = of(stage=2, coalesce=False, config={"zero_optimization": {"reduce_bucket_size": 1_000_000}})
    assert small_buckets.reduction == FLOAT_BYTES * BIG.largest  # a gradient is never cut
    assert (
        of(stage=3, config={"zero_optimization": {"stage3_max_live_parameters": 1000}}).gathered == FLOAT_BYTES * 1000
    )
    assert TorchEngineConfig().state_bytes(BIG, ranks=1, optimizer="sgd").optimizer == 0
    lora = Parameters(total=100, trainable=10, largest=5)
    assert TorchEngineConfig().state_bytes(lora, ranks=1, optimizer="adamw").gradients == 40
    assert checkpoint_bytes(lora, optimizer="adamw") == 120


def test_gradients_are_kept_whole_while_they_are_small() -> None:
    def gradients(total: int, stage: int) -> float:
        parameters = Parameters(total=total, trainable=total, largest=1000)
        return DeepSpeedEngineConfig(stage=stage).state_bytes(parameters, ranks=4, optimizer="adamw").gradients

    limit = 2**30 // FLOAT_BYTES
    assert (gradients(limit, stage=2), gradients(limit + 4, stage=2)) == (2**30, 2**28 + 4)
    assert gradients(limit, stage=3) == 2**28


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": self.linear(x).sum(1)}


def optimizer_bytes(stage: int | None) -> int:
    """The bytes of this rank's optimizer after a step: the moments, and the float32 weights that it updates."""
    torch.manual_seed(0)
    config = TorchEngineConfig() if stage is None else DeepSpeedEngineConfig(stage=stage)
    model = Model()
    engine = config.build(
        model,
        OptimizerOptions(),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        max_grad_norm=1.0,
    )
    engine.backward(engine.forward({"x": torch.ones(2, 64)})["score"].sum(), last=True)
    engine.step()
    held = {
        value.untyped_storage()._cdata: value.nbytes
        for state in engine.optimizer.state.values()
        for value in state.values()
        if value.ndim
    }
    if stage in (1, 2):
        held |= {id(value): value.nbytes for group in engine.optimizer.param_groups for value in group["params"]}
    return sum(held.values())


@pytest.mark.parametrize("stage", [None, 1, 2, 3])
def test_the_optimizer_holds_the_computed_bytes(stage: int | None) -> None:
    parameters = Parameters(total=64 * 64 + 64, trainable=64 * 64 + 64, largest=64 * 64)
    config = TorchEngineConfig() if stage is None else DeepSpeedEngineConfig(stage=stage)
    expected = config.state_bytes(parameters, ranks=2, optimizer="adamw").optimizer
    assert run_ranks(optimizer_bytes, 2, stage) == pytest.approx([expected] * 2, rel=0.02)
