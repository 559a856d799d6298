"""The sum of gradients over ranks during the last backward: that of a sum after it, in one order on all ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engines import reduction
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngine, TorchEngineConfig

WIDTH, DEPTH, NUM_CHUNKS = 8, 4, 3


class Layers(nn.Module):
    """Some layers of 8 x 8, of which one is frozen and one, the last, is not used."""

    def __init__(self, *, unused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.layers[1].weight.requires_grad_(False)
        self.tied = nn.Linear(WIDTH, WIDTH, bias=False)
        self.tied.weight = self.layers[0].weight
        if unused:
            self.unused = nn.Linear(WIDTH, 3)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            values = layer(values).tanh()
        return {"score": self.tied(values).sum(-1)}


def build(*, unused: bool) -> TorchEngine:
    options = OptimizerOptions(name="sgd", learning_rate=0.1)
    return TorchEngineConfig().build(
        Layers(unused=unused), options, lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), max_grad_norm=math.inf
    )


def inputs(chunk: int, of_rank: int) -> Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(10 * chunk + of_rank))


def sums(unused: bool) -> dict[str, Any]:
    """Of two steps: the gradients summed by the engine and after the backward, and which buckets were summed when."""
    reduction.BUCKET_BYTES = 2 * 4 * WIDTH * WIDTH  # two weights
    engine, plain = build(unused=unused), Layers(unused=unused)
    started: list[tuple[int, bool]] = []  # elements of a sum, and whether the backward was going on
    all_reduce = dist.all_reduce
    is_running = False

    def noted(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        started.append((tensor.numel(), is_running))
        return all_reduce(tensor, *arguments, **options)

    equal, buckets = [], []
    for _ in range(2):
        plain.load_state_dict(engine.model.state_dict())
        plain.zero_grad()
        graphs = [engine.forward({"values": inputs(chunk, rank())})["score"].sum() for chunk in range(NUM_CHUNKS)]
        dist.all_reduce = noted
        for chunk, graph in enumerate(graphs):
            finish = engine.gradient_sum.finish

            def finish_after_backward(finish: Any = finish) -> None:
                nonlocal is_running
                is_running = False
                finish()

            engine.gradient_sum.finish = finish_after_backward
            is_running = True
            engine.backward(graph, last=chunk == NUM_CHUNKS - 1)
            engine.gradient_sum.finish = finish
            plain(inputs(chunk, rank()))["score"].sum().backward()
        dist.all_reduce = all_reduce
        for name, parameter in plain.named_parameters():
            if parameter.requires_grad:
                summed = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                dist.all_reduce(summed)
                equal.append(engine.model.get_parameter(name).grad.equal(summed))
        buckets.append(list(started))
        started.clear()
        engine.step()
    frozen = [name for name, parameter in engine.model.named_parameters() if parameter.grad is not None]
    return {"equal": equal, "buckets": buckets, "left": frozen, "weight": engine.model.layers[0].weight.detach()}


@pytest.fixture(scope="module", params=[False, True], ids=["all used", "one unused"])
def ranks(request: pytest.FixtureRequest) -> tuple[bool, list[dict[str, Any]]]:
    return request.param, run_ranks(sums, 2, request.param)


def test_the_sum_is_that_after_the_backward_bit_by_bit(ranks: tuple[bool, list[dict[str, Any]]]) -> None:
    for found in ranks[1]:
        assert len(found["equal"]) == 2 * (7 + 2 * ranks[0])
        assert all(found["equal"])
        assert found["left"] == []
    assert ranks[1][0]["weight"].equal(ranks[1][1]["weight"])


def test_buckets_are_summed_in_one_order_while_the_backward_goes_on(ranks: tuple[bool, list[dict[str, Any]]]) -> None:
    unused, (first, second) = ranks
    assert first["buckets"] == second["buckets"]
    for step in first["buckets"]:
        assert len(step) > 2, "several buckets, each once"
        during = [is_running for _, is_running in step]
        # What is registered last is in the first bucket. The others wait for it.
        assert during == [False] * len(step) if unused else all(during)


def test_one_rank_sums_nothing() -> None:
    assert build(unused=False).gradient_sum is None
