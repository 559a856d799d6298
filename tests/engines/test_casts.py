"""Casts of weights under autocast: each is made once in a pass over the chunks, and nothing else changes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode

from data.batch import TokenSequences
from data.collate import Collator
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig
from models.bi_encoder import BiEncoderConfig
from trainers.step import GradientCache, gradients_of

NUM_ROWS, NUM_CHUNKS = 8, 4


class Casts(TorchDispatchMode):
    """Counts the casts of each weight to bf16."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.weights = {weight.data_ptr(): name for name, weight in model.named_parameters()}
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            name = self.weights.get(args[0].data_ptr())
            if name is not None:
                self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def run_step(
    folder: Path, kept_chunks: int, *, checkpointing: bool, keeps_casts: bool
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The casts of a step of four chunks, and its gradients."""
    model = BiEncoderConfig(str(folder), max_length=32, gradient_checkpointing=checkpointing).build(seed=0)
    engine = TorchEngineConfig(precision="bf16").build(
        model, OptimizerOptions(name="sgd"), lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), max_grad_norm=1.0
    )
    model.train()
    if not keeps_casts:
        engine.unchanged_weights = nullcontext
    ids = np.arange(5, 5 + 6 * NUM_ROWS, dtype=np.int32)
    sequences = TokenSequences({"input_ids": ids}, np.full(NUM_ROWS, 6, dtype=np.int32))
    collator = Collator(model.tokenizer.padding, 6 * NUM_ROWS // NUM_CHUNKS)
    cache = GradientCache(engine, collator, kept_chunks=kept_chunks, seed=0)
    with Casts(model) as casts:
        plan = cache.plan(sequences, step=1)
        assert len(plan.chunks) == NUM_CHUNKS
        outputs = cache.forward(plan)
        representations = cache.gather(plan, outputs)
        loss = representations["embedding"].square().cumsum(0).sum()
        cache.backward(plan, outputs, gradients_of(loss, representations))
    return casts.counts, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kept_chunks", [0, 2, 4])
def test_each_weight_is_cast_once_in_a_pass(kept_chunks: int, checkpointing: bool, tiny_bert_dir: Path) -> None:
    found, gradients = run_step(tiny_bert_dir, kept_chunks, checkpointing=checkpointing, keeps_casts=True)
    plain, expected = run_step(tiny_bert_dir, kept_chunks, checkpointing=checkpointing, keeps_casts=False)
    # Without gradients, with them, and in the recomputation: of the chunks, or of layers with checkpointing.
    passes = 1 if kept_chunks == NUM_CHUNKS and not checkpointing else 2 if kept_chunks in (0, NUM_CHUNKS) else 3
    forwards = NUM_CHUNKS + (NUM_CHUNKS - kept_chunks)
    in_layers = [name for name in found if ".layer." in name]
    assert in_layers
    for name in in_layers:
        assert found[name] == passes, name
        assert plain[name] == forwards + NUM_CHUNKS * checkpointing, name
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert gradient.equal(expected[name]), name
