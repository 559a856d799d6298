"""A bi-encoder's learned temperature and bias are updated, saved and resumed like any weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed import process_group
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.protocol import Engine
from engines.torch_engine import TorchEngineConfig
from models.bi_encoder import BiEncoderConfig

ENGINES: dict[str, Any] = {
    "torch": TorchEngineConfig(),
    **{f"zero{stage}": DeepSpeedEngineConfig(stage=stage) for stage in range(4)},
}
FEATURES = {"input_ids": torch.tensor([[2, 60, 70, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}


def build(kind: str, folder: Path, temperature: float) -> Engine:
    config = BiEncoderConfig(
        name_or_path=str(folder), temperature=temperature, learn_temperature=True, bias=-1.0, learn_bias=True
    )
    return ENGINES[kind].build(
        config.build(seed=0),
        OptimizerOptions(learning_rate=0.1),
        lambda optimizer: LambdaLR(optimizer, lambda _: 1.0),
        max_grad_norm=math.inf,
    )


def step(engine: Engine) -> tuple[float, float]:
    """The scale and bias after a step of AdamW that increases both."""
    output = engine.forward(FEATURES)
    engine.backward(-output["scale"].sum() - output["bias"].sum() + 0 * output["embedding"].sum(), last=True)
    engine.step()
    with torch.no_grad():
        output = engine.forward(FEATURES)
    return output["scale"].item(), output["bias"].item()


def resume_all(model: Path, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The scale and bias after one step, after two, and after two if another engine resumes in between."""
    results = {}
    for kind in ENGINES:
        engine = build(kind, model, temperature=0.1)
        results[kind] = [step(engine)]
        (folder / kind).mkdir(exist_ok=True)
        process_group.barrier()
        engine.shard().write(folder / kind)
        process_group.barrier()
        resumed = build(kind, model, temperature=0.5)
        resumed.load(folder / kind)
        results[kind] += [step(engine), step(resumed)]
    return results


@pytest.fixture(scope="module")
def results(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_ranks(resume_all, 2, tiny_bert_dir, tmp_path_factory.mktemp("scale"), timeout_s=280)


@pytest.mark.parametrize("kind", ENGINES)
def test_scale_and_bias_are_saved_and_resumed(kind: str, results: list[Any]) -> None:
    for rank in results:
        first, second, resumed = rank[kind]
        # AdamW's first step is the learning rate, whatever the gradient; scale = exp of its parameter.
        assert first == pytest.approx((10 * math.exp(0.1), -0.9), rel=1e-4)
        assert second[0] > first[0]
        assert second[1] > first[1]
        assert resumed == pytest.approx(second, rel=1e-6)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))


def test_a_parameter_without_dimensions_is_refused_by_deepspeed() -> None:
    with pytest.raises(ValueError, match=r"^DeepSpeed cannot broadcast .* give temperature shape \[1\]$"):
        ENGINES["zero2"].build(Scalar(), OptimizerOptions(), lambda optimizer: LambdaLR(optimizer, float), math.inf)
