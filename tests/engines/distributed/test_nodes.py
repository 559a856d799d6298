"""Sums by node: those of one collective, the same bits on all ranks, with a share of each node between nodes."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engines import reduction
from engines.distributed.nodes import NodeSum, ranks_of_nodes
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig

WIDTH, NUM_CHUNKS = 7, 2  # so that buckets do not divide by the ranks of a node


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"score": self.layers(values).tanh().sum(-1)}


def on_two_nodes() -> dict[str, Any]:
    """Sums on ranks 0, 1 and 2, 3, which are two nodes."""
    os.environ["GROUP_RANK"] = str(rank() // 2)
    nodes = NodeSum()
    between: list[int] = []  # elements that are summed between nodes
    all_reduce = dist.all_reduce

    def noted(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        if options.get("group") is nodes._across:
            between.append(tensor.numel())
        return all_reduce(tensor, *arguments, **options)

    values = torch.randn(6, generator=torch.Generator().manual_seed(rank()))
    whole = values.double()
    dist.all_reduce(whole)
    dist.all_reduce = noted
    nodes.start(values)()
    dist.all_reduce = all_reduce
    return {"sum": values, "whole": whole, "between": between, "nodes": ranks_of_nodes("x"), **train()}


def train() -> dict[str, Any]:
    """Weights after two steps, by node and in one collective."""
    reduction.BUCKET_BYTES = 300  # a layer and a half
    found: dict[str, Any] = {}
    for by_node in (False, True):
        engine = TorchEngineConfig(by_node=by_node).build(
            Layers(), OptimizerOptions(name="sgd"), lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), math.inf
        )
        for step in range(2):
            generator = torch.Generator().manual_seed(10 * step + rank())
            for chunk in range(NUM_CHUNKS):
                score = engine.forward({"values": torch.randn(3, WIDTH, generator=generator)})["score"]
                engine.backward(score.sum(), last=chunk == NUM_CHUNKS - 1)
            engine.step()
        found[f"by node: {by_node}"] = torch.cat([weight.detach().flatten() for weight in engine.model.parameters()])
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(on_two_nodes, 4)


def test_a_sum_by_node_is_the_sum(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert (found["sum"] - found["whole"]).abs().max() < 1e-6
        assert found["sum"].equal(ranks[0]["sum"])
        assert found["nodes"] == [[0, 1], [2, 3]]


def test_each_rank_sums_its_share_between_nodes(ranks: list[dict[str, Any]]) -> None:
    assert [found["between"] for found in ranks] == [[3]] * 4


def test_an_engine_that_sums_by_node_trains_alike(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        by_node, at_once = found["by node: True"], found["by node: False"]
        assert not by_node.equal(torch.cat([weight.flatten() for weight in Layers().parameters()]))
        assert (by_node - at_once).abs().max() < 1e-6
        assert by_node.equal(ranks[0]["by node: True"])


def refusals(nodes: list[str | None]) -> str:
    os.environ.pop("GROUP_RANK", None)
    if nodes[rank()] is not None:
        os.environ["GROUP_RANK"] = str(nodes[rank()])
    try:
        NodeSum()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["0", "0"], "several nodes with the same number of ranks, of at least 2, but the nodes have 2"),
        (["0", "1"], "but the nodes have 1, 1"),
        (["0", None], "needs GROUP_RANK, which torchrun sets"),
    ],
)
def test_other_nodes_are_refused(nodes: list[str | None], expected: str) -> None:
    for message in run_ranks(refusals, 2, nodes):
        assert expected in message
        assert message.startswith("engine.by_node=true")
