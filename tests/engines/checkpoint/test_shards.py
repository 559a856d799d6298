"""Slices of parameters are distributed, copied, written and read; test_engines.py tests other engines and ranks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from engines.checkpoint import shards
from engines.checkpoint.shards import Fragment, StoredState, rank_share
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngine, TorchEngineConfig


class Model(nn.Module):
    """A scalar, a matrix, a frozen weight, a tied one, a buffer that is stored and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.weight = nn.Parameter(torch.arange(35.0).view(7, 5).t())  # not contiguous
        self.tied = self.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("table", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": (self.scale * x @ self.weight * self.frozen.sum()).sum(1)}


def build(name: str = "adamw") -> TorchEngine:
    options = OptimizerOptions(name=name, learning_rate=0.1)
    return TorchEngineConfig().build(Model(), options, lambda o: LambdaLR(o, lambda u: 1 / (1 + u)), 1.0)


def step(engine: TorchEngine, number: int) -> float:
    features = {"x": torch.randn(4, 5, generator=torch.Generator().manual_seed(number))}
    engine.backward(engine.forward(features)["score"].square().mean(), last=True)
    return engine.step()


@pytest.mark.parametrize("sizes", [[1, 35], [3, 3, 3, 1], [1], [7, 1, 90]])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_shares_are_about_equal_and_cover_every_element_once(
    sizes: list[int], ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {str(i): Fragment(0, {"weight": torch.arange(size) + 1000 * i}) for i, size in enumerate(sizes)}
    monkeypatch.setattr(shards, "world_size", lambda: ranks)
    found: dict[str, list[int]] = {}
    for rank in range(ranks):
        monkeypatch.setattr(shards, "rank", lambda rank=rank: rank)
        own = rank_share(whole)
        assert sum(len(fragment.values["weight"]) for fragment in own.values()) <= -(-sum(sizes) // ranks)
        for name, fragment in own.items():
            assert fragment.start == len(found.get(name, []))
            found[name] = found.get(name, []) + fragment.values["weight"].tolist()
    assert found == {name: fragment.values["weight"].tolist() for name, fragment in whole.items()}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("updates", [0, 3])
def test_a_copy_keeps_the_state_and_a_new_engine_continues_from_it_bit_by_bit(
    name: str, updates: int, tmp_path: Path
) -> None:
    engine = build(name)
    for number in range(updates):
        step(engine, number)
    engine.model.count += 5
    copy = engine.shard().cpu_copy()
    following = [step(engine, number) for number in range(updates, updates + 3)]
    files = copy.write(tmp_path)
    assert [file.name for file in files] == ["rank-00000.safetensors", "engine.json"]
    again = build(name)
    again.load(tmp_path)
    assert again.learning_rate() == pytest.approx(0.1 / (1 + updates))
    assert again.model.count == 5
    assert [step(again, number) for number in range(updates, updates + 3)] == following
    for parameter, other in zip(again.model.parameters(), engine.model.parameters(), strict=True):
        assert parameter.equal(other)


def test_what_is_stored_is_named(tmp_path: Path) -> None:
    engine = build()
    step(engine, 0)
    engine.shard().write(tmp_path)
    header = StoredState(tmp_path).header
    assert header["parameters"] == {"scale": [], "weight": [5, 7]}
    assert (header["engine"], header["world_size"], header["updates"]) == ("torch", 1, 1)


def test_a_write_that_fails_is_an_error_of_the_operating_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="rank-00000") as caught:
        build().shard().write(tmp_path / "absent")
    assert caught.value.errno != errno.ENOSPC
