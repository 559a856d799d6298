"""What DeepSpeed sends is counted: gradients once a step or after each chunk, and weights that are partitioned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed.testing import run_ranks
from engines.distributed.traffic import start_counting, traffic_statistics
from engines.optimizers import OptimizerOptions

NUM_CHUNKS = 3
SIZE = 4 * (8 * 16 + 16 + 16 * 2)  # bytes of the model's weights
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2, bias=False))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"score": self.layers(values).sum(-1)}


def traffic_of_steps() -> dict[int, dict[str, float]]:
    """The traffic of the second step of each stage, up to its update."""
    found = {}
    for stage in range(4):
        options, config = OptimizerOptions(name="sgd"), PARTITION_ALL if stage == 3 else {}
        engine: Any = DeepSpeedEngineConfig(stage=stage, coalesce=False, config=config).build(
            Layers(), options, lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), max_grad_norm=math.inf
        )
        for _ in range(2):
            start_counting()
            for chunk in range(NUM_CHUNKS):
                score = engine.forward({"values": torch.ones(4, 8)})["score"]
                engine.backward(score.sum(), last=chunk == NUM_CHUNKS - 1)
            found[stage] = traffic_statistics()
            engine.step()
    return found


@pytest.fixture(scope="module")
def traffic() -> list[dict[int, dict[str, float]]]:
    return run_ranks(traffic_of_steps, 2, timeout_s=280)


@pytest.mark.parametrize(("stage", "times"), [(0, 1), (1, 1), (2, NUM_CHUNKS), (3, NUM_CHUNKS)])
def test_gradients_are_counted(stage: int, times: int, traffic: list[dict[int, dict[str, float]]]) -> None:
    """Of two ranks each sends and receives half in a reduce-scatter, and twice as much in an all-reduce."""
    for of_rank in traffic:
        received = of_rank[stage]["traffic/gradients_received_bytes"]
        assert times * SIZE / 2 <= received <= times * SIZE * 1.01
        assert of_rank[stage]["traffic/gradients_s"] > 0


def test_weights_are_counted_where_a_forward_gathers_them(traffic: list[dict[int, dict[str, float]]]) -> None:
    for of_rank in traffic:
        assert not any("traffic/weights_received_bytes" in of_rank[stage] for stage in range(3))
        gathered = of_rank[3]["traffic/weights_received_bytes"]
        assert NUM_CHUNKS * SIZE / 2 <= gathered <= 2 * NUM_CHUNKS * SIZE / 2
