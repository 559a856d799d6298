"""Tests that need a GPU: both backends in one group, collectives on the device, one step of every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_update_on_device import check_that_nan_changes_nothing
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed import process_group
from engines.distributed.collectives import _gather_ragged, all_agree, gather_rows
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig

pytestmark = pytest.mark.gpu
ENGINES: dict[str, Any] = {"torch": TorchEngineConfig} | {
    f"zero{stage}": lambda stage=stage, **options: DeepSpeedEngineConfig(stage=stage, **options) for stage in range(4)
}


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.score = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"score": self.score(self.hidden(values).tanh()).squeeze(-1)}


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """One group for all tests, since DeepSpeed keeps using the first one of a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        process_group.start_single()
        yield
        process_group.stop()


def test_tensors_of_both_devices_travel(group: None) -> None:
    assert process_group.backend() == "cpu:gloo,cuda:nccl"
    for device in ("cpu", "cuda"):
        tensor = torch.ones(3, device=device)
        dist.all_reduce(tensor)
        assert tensor.tolist() == [1, 1, 1]
    assert all_agree(True)


def test_rows_are_gathered_on_the_device(group: None) -> None:
    score = torch.tensor([3.0, -0.0, math.inf], device="cuda")
    gathered = gather_rows({"score": score}, [2, 0, 1], 3)["score"]
    assert gathered.device == score.device
    assert gathered.tolist() == [-0.0, math.inf, 3.0]
    packed = torch.arange(12, dtype=torch.uint8, device="cuda").view(3, 4)
    assert _gather_ragged(packed).equal(packed)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ENGINES)
def test_a_training_step_of_two_chunks(kind: str, precision: str, group: None) -> None:
    if kind != "torch":
        pytest.importorskip("deepspeed")
    options = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.0)
    chunks = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    plain = Scorer()
    plain(chunks.flatten(0, 1))["score"].sum().backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in plain.parameters()]).item()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()

    engine = ENGINES[kind](precision=precision).build(
        Scorer(), options, lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), max_grad_norm=math.inf
    )
    dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert (engine.device.type, engine.autocast) == ("cuda", dtypes[precision])
    for index, chunk in enumerate(chunks):
        score = engine.forward({"values": chunk.to(engine.device)})["score"]
        assert score.dtype == torch.float32
        engine.backward(score.sum(), last=index == 1)
    tolerance = 1e-4 if precision == "fp32" else 3e-2
    assert engine.step() == pytest.approx(norm, rel=tolerance)
    with engine.full_weights():
        for name, value in engine.model.named_parameters():
            torch.testing.assert_close(value.cpu(), plain.get_parameter(name), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_update_that_is_queued_before_the_host_knows_of_nan_changes_nothing(optimizer: str) -> None:
    check_that_nan_changes_nothing(optimizer)


def test_a_step_of_adamw_queues_without_waiting() -> None:
    """Only `HostCopy.read` waits, which torch's debug mode does not count."""
    engine = TorchEngineConfig(precision="bf16").build(
        Scorer(), OptimizerOptions(), lambda each: LambdaLR(each, lambda _: 1.0), max_grad_norm=1.0
    )
    values, finite = torch.randn(4, 8, device="cuda"), torch.ones((), dtype=torch.bool, device="cuda")
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            engine.backward(engine.forward({"values": values})["score"].sum(), last=True)
            engine.step(finite)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_compilation_gives_the_gradients_of_the_model_without_it() -> None:
    found = []
    for compiled in (False, True):
        engine = TorchEngineConfig(precision="fp32", compile=compiled).build(
            Scorer(), OptimizerOptions(), lambda each: LambdaLR(each, lambda _: 1.0), max_grad_norm=1.0
        )
        for rows in (4, 7):
            values = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows)).cuda()
            engine.backward(engine.forward({"values": values})["score"].square().sum(), last=rows == 7)
        found.append([parameter.grad.clone() for parameter in engine.model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
