"""engine.compile: the same names of weights, checkpoints and gradients, with dropout too."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from data.batch import TokenSequences
from data.collate import Collator
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngine, TorchEngineConfig
from models.bi_encoder import BiEncoder, BiEncoderConfig
from trainers.step import GradientCache, gradients_of

LENGTHS = [9, 9, 7, 5, 5, 4]


def build(folder: Path, *, compiled: bool, dropout: float) -> TorchEngine:
    model = BiEncoderConfig(str(folder), max_length=32, dropout=dropout).build(seed=0)
    return TorchEngineConfig(precision="fp32", compile=compiled).build(
        model.train(), OptimizerOptions(), lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), max_grad_norm=1.0
    )


def gradients(engine: TorchEngine, kept_chunks: int) -> dict[str, Tensor]:
    """Of a step of four chunks of different shapes."""
    ids = np.arange(5, 5 + sum(LENGTHS), dtype=np.int32)
    sequences = TokenSequences({"input_ids": ids}, np.array(LENGTHS, dtype=np.int32))
    cache = GradientCache(engine, Collator({}, 18), kept_chunks=kept_chunks, seed=0)
    plan = cache.plan(sequences, step=1)
    assert len(plan.chunks) == 4
    outputs = cache.forward(plan)
    representations = cache.gather(plan, outputs)
    loss = representations["embedding"].cumsum(0).square().sum()
    cache.backward(plan, outputs, gradients_of(loss, representations))
    return {name: weight.grad.clone() for name, weight in engine.model.named_parameters() if weight.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4, msg=name)


@pytest.fixture
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured as always, and run without a compiler of machine code."""
    compile_module = nn.Module.compile

    def compile_eagerly(module: nn.Module, *, dynamic: bool, options: Any) -> None:
        assert options == {"fallback_random": True}
        compile_module(module, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)


def test_names_checkpoints_and_exports_stay(eager_backend: None, tiny_bert_dir: Path, tmp_path: Path) -> None:
    plain, compiled = (build(tiny_bert_dir, compiled=each, dropout=0.0) for each in (False, True))
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    assert_close(gradients(compiled, kept_chunks=1), gradients(plain, kept_chunks=1))
    norm = compiled.step()
    assert norm == pytest.approx(plain.step(), rel=1e-5)

    (tmp_path / "checkpoint").mkdir()
    compiled.shard().write(tmp_path / "checkpoint")
    resumed = build(tiny_bert_dir, compiled=False, dropout=0.0)  # by a run without compilation
    resumed.load(tmp_path / "checkpoint")
    assert_close(dict(resumed.model.state_dict()), dict(compiled.model.state_dict()))
    assert_close(gradients(resumed, kept_chunks=4), gradients(compiled, kept_chunks=4))

    compiled.model.export(tmp_path / "model")
    exported = BiEncoder.load(tmp_path / "model")
    assert_close(dict(exported.state_dict()), dict(compiled.model.state_dict()))


def test_a_machine_that_cannot_compile_is_told(monkeypatch: pytest.MonkeyPatch, tiny_bert_dir: Path) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found. Install one")

    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, **options: partial(compile_module, backend=no_compiler)(module)
    )
    engine = build(tiny_bert_dir, compiled=True, dropout=0.0)
    remedy = r"engine.compile=true: .* \(.*No working C\+\+ compiler found\): set engine.compile=false"
    with pytest.raises(ValueError, match=remedy):
        engine.forward({name: torch.ones(2, 3, dtype=torch.int64) for name in ("input_ids", "attention_mask")})


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_chunks_that_run_twice_have_the_masks_of_the_uncompiled_model(dropout: float, tiny_bert_dir: Path) -> None:
    """By the compiler itself. The graph without gradients and the one with them draw alike."""
    expected = gradients(build(tiny_bert_dir, compiled=False, dropout=dropout), kept_chunks=4)
    assert_close(gradients(build(tiny_bert_dir, compiled=True, dropout=dropout), kept_chunks=0), expected)
