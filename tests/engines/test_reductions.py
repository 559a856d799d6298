"""The number of gradient elements that each engine reduces over the ranks in a step of several chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import engines.deepspeed.engine as module
from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.protocol import Engine
from engines.torch_engine import TorchEngineConfig

NUM_CHUNKS = 3
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
# Each engine, and how many times a step of three chunks reduces the gradients.
ENGINES: dict[str, tuple[Any, int]] = {
    "torch": (TorchEngineConfig(), 1),
    "zero0": (DeepSpeedEngineConfig(stage=0), 1),
    "zero1": (DeepSpeedEngineConfig(stage=1), 1),
    "zero2": (DeepSpeedEngineConfig(stage=2), 1),
    "zero2-by-chunk": (DeepSpeedEngineConfig(stage=2, coalesce=False), NUM_CHUNKS),
    "zero3": (DeepSpeedEngineConfig(stage=3, config=PARTITION_ALL), NUM_CHUNKS),
    "zero3-coalesce": (DeepSpeedEngineConfig(stage=3, coalesce=True, config=PARTITION_ALL), 1),
}
# The collectives that may reduce gradients, and the position of their input argument.
REDUCTIONS = {
    "all_reduce": 0,
    "reduce": 0,
    "reduce_scatter": 1,
    "reduce_scatter_tensor": 1,
    "_reduce_scatter_base": 1,
    "all_to_all_single": 1,
}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2, bias=False))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"score": self.layers(values).sum(-1)}


def _constant(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda _: 1.0)


def count_elements() -> dict[str, int]:
    """Count the elements that this rank passes to reductions in the backward calls of a step, by engine."""
    sent: list[int] = []
    for name, position in REDUCTIONS.items():
        if hasattr(dist, name):
            setattr(dist, name, _counting(getattr(dist, name), position, sent))
    counts = {}
    for kind, (config, _) in ENGINES.items():
        engine: Engine = config.build(
            Layers(),
            OptimizerOptions(name="sgd"),
            _constant,
            max_grad_norm=math.inf,
        )
        for _ in range(2):  # the first step may differ from later ones
            sent.clear()
            for chunk in range(NUM_CHUNKS):
                score = engine.forward({"values": torch.ones(4, 8)})["score"]
                engine.backward(score.sum(), last=chunk == NUM_CHUNKS - 1)
            counts[kind] = sum(sent)
            engine.step()
    return counts


def _counting(collective: Any, position: int, sent: list[int]) -> Any:
    name = {0: "tensor", 1: "input"}[position]

    def counted(*arguments: Any, **options: Any) -> Any:
        value = options[name] if name in options else arguments[position]
        sent.append(sum(part.numel() for part in value) if isinstance(value, list | tuple) else value.numel())
        return collective(*arguments, **options)

    return counted


@pytest.fixture(scope="module")
def elements() -> dict[str, int]:
    return run_ranks(count_elements, 2, timeout_s=280)[0]


@pytest.mark.parametrize("kind", ENGINES)
def test_gradients_are_reduced_once_or_after_every_chunk(kind: str, elements: dict[str, int]) -> None:
    size = sum(parameter.numel() for parameter in Layers().parameters())
    assert size % 2 == 0, "no padding on two ranks"
    assert elements[kind] == size * ENGINES[kind][1]


def build_with_older_deepspeed() -> list[Any]:
    """What `engine.coalesce` becomes where DeepSpeed cannot: auto, then true."""
    module.can_coalesce = lambda: False
    found: list[Any] = []
    for coalesce in ("auto", True):
        config = DeepSpeedEngineConfig(stage=2, coalesce=coalesce)
        try:
            found.append(config.build(Layers(), OptimizerOptions(), _constant, max_grad_norm=1.0).coalesce)
        except ValueError as error:
            found.append(str(error))
    return found


def test_an_older_deepspeed_reduces_after_every_chunk() -> None:
    chosen, refused = run_ranks(build_with_older_deepspeed, 1)[0]
    assert chosen is False
    assert "needs DeepSpeed 0.19.8 or later" in refused
