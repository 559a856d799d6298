"""A small model in chunks, the engines that train it, and the plain loop that they are compared with."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.optim.lr_scheduler import LambdaLR

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed import process_group
from engines.optimizers import OptimizerOptions
from engines.protocol import Engine
from engines.torch_engine import TorchEngineConfig

NUM_CHUNKS = 5  # on two ranks: three rounds, where the last one of one rank is a dummy
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # partition these small weights too
ENGINES: dict[str, Any] = {
    "torch": TorchEngineConfig(),
    "zero0": DeepSpeedEngineConfig(stage=0),
    "zero1": DeepSpeedEngineConfig(stage=1),
    "zero2": DeepSpeedEngineConfig(stage=2),
    "zero2-by-chunk": DeepSpeedEngineConfig(stage=2, coalesce=False),  # as large models have it
    "zero3": DeepSpeedEngineConfig(stage=3, config=PARTITION_ALL),
    "zero2-offload": DeepSpeedEngineConfig(stage=2, offload="optimizer"),
    "zero3-offload": DeepSpeedEngineConfig(stage=3, offload="all", config=PARTITION_ALL),
}
SGD = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.1)
ADAMW = OptimizerOptions(name="adamw", learning_rate=0.01)


class Scorer(nn.Module):
    """A one-layer transformer with dropout, a frozen layer and an unused layer."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)  # the same for every seed, as pretrained weights are
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(50, 16)
        self.attention = nn.Linear(16, 48, bias=False)  # a key's bias has gradient 0, whose rounding AdamW amplifies
        self.dropout = nn.Dropout(0.2)
        self.norm = nn.LayerNorm(16)
        self.score = nn.Linear(16, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        hidden = self.frozen(self.embedding(input_ids))
        query, key, value = self.attention(hidden).chunk(3, dim=-1)
        hidden = self.norm(hidden + self.dropout(scaled_dot_product_attention(query, key, value)))
        return {"score": self.score(hidden.mean(1)).squeeze(-1)}


def schedule(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 / (1 + step))


@cache
def chunks(step: int) -> list[tuple[Tensor, Tensor]]:
    """Chunks of different sizes: token ids [rows, length], and the gradients [rows] of a loss by their scores."""
    generator = torch.Generator().manual_seed(step)
    sizes = [(3, 4), (3, 4), (2, 6), (4, 3), (1, 9)]
    assert len(sizes) == NUM_CHUNKS
    return [
        (torch.randint(0, 50, size, generator=generator), torch.randn(size[0], generator=generator)) for size in sizes
    ]


def plain_loop(
    options: OptimizerOptions, max_grad_norm: float, num_steps: int
) -> tuple[list[float], dict[str, Tensor]]:
    """Train without an engine. Every engine must give the same result."""
    model = Scorer()
    optimizer = options.build(model)
    lr_scheduler, norms = schedule(optimizer), []
    for step in range(num_steps):
        model.unused.weight.grad, model.unused.bias.grad = torch.zeros(3, 3), torch.zeros(3)
        for index, (ids, gradients) in enumerate(chunks(step)):
            torch.manual_seed(1000 * step + index)
            (model(input_ids=ids)["score"] * gradients).sum().backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item())
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    return norms, {name: value.detach() for name, value in model.named_parameters()}


def accumulate(engine: Engine, step: int, kept: int, factor: float = 1.0) -> None:
    """Accumulate the chunks of this rank in one step: the last `kept` keep their graph, the others are recomputed."""
    rank, world_size = process_group.rank(), process_group.world_size()
    own: list[int | None] = [*range(NUM_CHUNKS)][rank::world_size]
    own += [None] * (-(-NUM_CHUNKS // world_size) - len(own))

    def forward(index: int | None) -> Tensor:
        torch.manual_seed(1000 * step + (index or 0))
        return engine.forward({"input_ids": chunks(step)[index or 0][0]})["score"]

    first_kept = max(len(own) - kept, 0)
    outputs = []
    for position, index in enumerate(own):
        with torch.set_grad_enabled(position >= first_kept):
            outputs.append(forward(index))
    order = [*range(first_kept, len(own)), *range(first_kept)]
    for count, position in enumerate(order):
        index = own[position]
        scores = outputs[position] if position >= first_kept else forward(index)
        surrogate = (scores * (0 if index is None else chunks(step)[index][1])).sum()
        engine.backward(surrogate * factor, last=count == len(order) - 1)


def train(engine: Engine, steps: range, kept: int = 2) -> list[float]:
    norms = []
    for step in steps:
        accumulate(engine, step, kept)
        norms.append(engine.step())
    return norms


def weights(engine: Engine) -> dict[str, Tensor]:
    with engine.full_weights():
        return {name: value.detach().clone() for name, value in engine.model.named_parameters()}


def assert_equal_run(actual: tuple[Any, ...], expected: tuple[Any, ...], tolerance: float = 1e-5) -> None:
    assert actual[0] == pytest.approx(expected[0], rel=tolerance)
    assert actual[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert actual[1][name].shape == value.shape, name
        assert (actual[1][name] - value).abs().max() < tolerance, name
