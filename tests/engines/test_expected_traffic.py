"""What a plan expects a rank to receive of gradients and weights is what the engines move."""

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
from engines.expected_traffic import Traffic, gathered, num_buckets, summed, summed_in_shares
from engines.memory.state_bytes import Parameters
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig

NUM_CHUNKS = 3
WIDTH = 64
SIZE = 2 * WIDTH * WIDTH  # weights of the model
PARAMETERS = Parameters(SIZE, SIZE, WIDTH * WIDTH)
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
ENGINES: dict[str, Any] = {
    "torch": TorchEngineConfig(),
    **{f"zero{stage}": DeepSpeedEngineConfig(stage=stage) for stage in range(3)},
    "zero2-by-chunk": DeepSpeedEngineConfig(stage=2, coalesce=False),
    "zero3": DeepSpeedEngineConfig(stage=3, config=PARTITION_ALL),
}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"score": self.layers(values).sum(-1)}


def traffic_of_steps() -> dict[str, dict[str, float]]:
    """The traffic of the second step of each engine, its update included."""
    found = {}
    for name, config in ENGINES.items():
        engine = config.build(
            Layers(), OptimizerOptions(name="sgd"), lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), math.inf
        )
        for _ in range(2):
            start_counting()
            graphs = [engine.forward({"values": torch.ones(4, WIDTH)})["score"].sum() for _ in range(NUM_CHUNKS)]
            for chunk, graph in enumerate(graphs):
                engine.backward(graph, last=chunk == NUM_CHUNKS - 1)
            engine.step()
            found[name] = traffic_statistics()
    return found


@pytest.fixture(scope="module")
def moved() -> dict[str, dict[str, float]]:
    return run_ranks(traffic_of_steps, 2, timeout_s=280)[0]


@pytest.mark.parametrize("name", ENGINES)
def test_engines_move_what_is_expected(name: str, moved: dict[str, dict[str, float]]) -> None:
    options: Any = {"ranks": 2, "forwards": NUM_CHUNKS, "backwards": NUM_CHUNKS, "device": "cuda"}
    expected = {each.name: each.num_bytes for each in ENGINES[name].traffic(PARAMETERS, **options)}
    counted = {key: moved[name].get(f"traffic/{key}_received_bytes", 0.0) for key in expected}
    # The norm of the gradient, and flags of an overflow, are summed too: a few numbers.
    assert counted == pytest.approx(expected, abs=64)


def test_zero_1_keeps_whole_gradients_and_zero_3_gathers_weights() -> None:
    size = 4 * SIZE

    def bytes_of(name: str) -> dict[str, float]:
        found = ENGINES[name].traffic(PARAMETERS, ranks=4, forwards=5, backwards=3, device="cuda")
        return {each.name: each.num_bytes for each in found}

    assert bytes_of("torch") == bytes_of("zero0") == {"gradients": 1.5 * size}
    assert bytes_of("zero1") == bytes_of("zero2") == {"gradients": 1.5 * size, "weights": 0.75 * size}
    assert bytes_of("zero2-by-chunk") == {"gradients": 3 * 1.5 * size, "weights": 0.75 * size}
    assert bytes_of("zero3") == {"gradients": 3 * 0.75 * size, "weights": 8 * 0.75 * size}


def test_what_goes_on_behind_a_backward() -> None:
    def backwards(config: Any) -> list[float]:
        return [e.backwards for e in config.traffic(PARAMETERS, ranks=4, forwards=3, backwards=3, device="cuda")]

    assert backwards(ENGINES["torch"]) == [1]
    assert backwards(ENGINES["zero2-by-chunk"]) == [0, 0]  # DeepSpeed waits, unless it is told to overlap
    overlap = {"zero_optimization": {"overlap_comm": True}}
    assert backwards(DeepSpeedEngineConfig(stage=2, coalesce=False, config=overlap)) == [3, 0]
    assert backwards(ENGINES["zero3"]) == [3, 3]


def test_collectives_of_rings_and_trees() -> None:
    assert gathered("texts", 100.0, 4, 2) == Traffic("texts", 75.0, calls=2, hops=3, ranks=4)
    assert summed("gradients", 100.0, 4).num_bytes == 150.0
    assert [summed("gradients", 100.0, ranks).messages for ranks in (1, 2, 4, 5)] == [0, 2, 4, 6]
    assert summed_in_shares("gradients", 100.0, 4, "cuda").num_bytes == 75.0
    assert summed_in_shares("gradients", 100.0, 4, "cpu").num_bytes == 150.0
    assert summed("gradients", 100.0, 1).num_bytes == 0.0
    assert gathered("weights", 8.0, 2).repeated(3).num_bytes == 12.0
    assert [num_buckets(size, 10.0) for size in (0.0, 10.0, 11.0)] == [1, 1, 2]
