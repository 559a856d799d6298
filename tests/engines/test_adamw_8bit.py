"""AdamW with moments in 8 bits: what it needs, what its checkpoints hold, and the memory that is planned for it.

Tests of its updates need bitsandbytes, the extra `eight-bit`: they are skipped without it, as it slows every start.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import ENGINES, schedule
from torch import Tensor, nn

from engines.distributed import process_group
from engines.distributed.testing import run_ranks
from engines.memory.state_bytes import checkpoint_bytes, moment_bytes
from engines.optimizers import OptimizerOptions, parameters_in_8bit
from launch.cli.compose import load
from recipes.checks.compatibility import check_parts
from recipes.cost_plan.workload import count_parameters

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="pip install -e '.[eight-bit]'")


class Model(nn.Module):
    """An embedding, a matrix of 16 blocks of moments and a bit, and small parameters."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(80, 64)
        self.linear = nn.Linear(64, 65)
        self.score = nn.Linear(65, 1)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"score": self.score(self.linear(self.embedding(input_ids).mean(1)).tanh()).squeeze(-1)}


def step(engine: Any, number: int) -> float:
    generator = torch.Generator().manual_seed(number)
    ranks = process_group.world_size()
    chunks = [torch.randint(0, 80, (3, 5), generator=generator) for _ in range(4)]
    own = chunks[process_group.rank() :: ranks]
    for index, ids in enumerate(own):
        engine.backward(engine.forward({"input_ids": ids})["score"].sum(), last=index == len(own) - 1)
    return engine.step()


def build(kind: str, name: str = "adamw_8bit", seed: int = 0) -> Any:
    options = OptimizerOptions(name=name, learning_rate=0.01, weight_decay=0.1)
    return ENGINES[kind].build(Model(seed), options, schedule, max_grad_norm=1.0)


def state_of(engine: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in engine.model.state_dict().items()}


def test_without_bitsandbytes_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^trainer.optimizer=adamw_8bit needs bitsandbytes: pip install"):
        OptimizerOptions(name="adamw_8bit")


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_engines_that_divide_the_moments_refuse_it(
    engine: str, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    settings = load([*tiny_run, f"engine={engine}", "trainer.optimizer=adamw_8bit"])
    with pytest.raises(ValueError, match=rf"adamw_8bit does not run on engine={engine}, .*: set engine=torch or zero0"):
        check_parts(settings)
    check_parts(load([*tiny_run, "engine=zero0", "trainer.optimizer=adamw_8bit"]))


def test_the_planned_bytes_of_moments() -> None:
    parameters = count_parameters(Model())
    assert parameters.in_8bit == 64 * 65  # neither the embedding nor small ones
    assert [parameter.shape for parameter in parameters_in_8bit(Model())] == [(65, 64)]
    rest = parameters.trainable - parameters.in_8bit
    assert moment_bytes(parameters, "adamw") == 8 * parameters.trainable
    assert moment_bytes(parameters, "sgd") == 0
    assert moment_bytes(parameters, "adamw_8bit") == 8 * rest + 2 * parameters.in_8bit * (1 + 4 / 256)
    assert checkpoint_bytes(parameters, optimizer="adamw") == 12 * parameters.trainable


@needs_bitsandbytes
def test_moments_have_the_planned_bytes_and_updates_are_near_those_of_adamw() -> None:
    engine, exact = build("torch"), build("torch", "adamw")
    for number in range(5):
        assert step(engine, number) == pytest.approx(step(exact, number), rel=0.05)
    held = {
        value.untyped_storage()._cdata: value.nbytes
        for state in engine.optimizer.state.values()
        for name, value in state.items()
        if name not in ("step", "qmap1", "qmap2")
    }
    planned = moment_bytes(count_parameters(engine.model), "adamw_8bit")
    assert sum(held.values()) == pytest.approx(planned, rel=0.001)
    for name, value in state_of(exact).items():
        assert 0 <= (state_of(engine)[name] - value).abs().max() < 0.01, name  # 5 updates of up to 0.01


def resumed_and_uninterrupted(kind: str, folder: Path) -> dict[str, float]:
    """The largest difference of a weight from those of the uninterrupted run, by the engine that resumes."""
    engine = build(kind)
    for number in range(3):
        step(engine, number)
    folder.mkdir(exist_ok=True)
    process_group.barrier()
    engine.shard().write(folder)
    process_group.barrier()
    for number in range(3, 6):
        step(engine, number)
    differences = {}
    for reader in ("torch", "zero0"):
        resumed = build(reader, seed=1)
        resumed.load(folder)
        for number in range(3, 6):
            step(resumed, number)
        expected = state_of(engine)
        found = [(value - expected[name]).abs().max().item() for name, value in state_of(resumed).items()]
        differences[reader] = max(found)
    return differences


def on_two_ranks(folder: Path) -> dict[str, dict[str, float]]:
    return {kind: resumed_and_uninterrupted(kind, folder / kind) for kind in ("torch", "zero0")}


@needs_bitsandbytes
def test_a_resumed_run_is_equal_bit_by_bit_and_on_another_engine_or_number_of_ranks_nearly(tmp_path: Path) -> None:
    for differences in run_ranks(on_two_ranks, 2, tmp_path):
        for kind, by_reader in differences.items():
            for reader, difference in by_reader.items():
                assert difference == 0 if reader == kind else difference < 1e-3, (kind, reader)
    engine, resumed = build("torch"), build("torch", seed=1)
    expected = [step(engine, number) for number in range(6)][3:]
    resumed.load(tmp_path / "torch")
    assert [step(resumed, number) for number in range(3, 6)] == pytest.approx(expected, rel=1e-3)
