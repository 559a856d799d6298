"""The LLM reranker under ZeRO-3 on two ranks: the same update and scores as one process, tied head and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from llm_rerankers import DOCUMENTS, QUERIES, build, padded
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from data.batch import TokenSequences
from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed import process_group
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig
from inference.shared_prefix import score_lists

PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # also these small weights
SIZES = [3, 5]


def update_and_score(folder: Path, stage: int | None) -> tuple[dict[str, Tensor], Tensor, float]:
    """The weights after an update by log p(yes) over the vocabulary, two chunks shared by the ranks; the scores of two
    lists then, and the gradient's norm."""
    model = build(folder, "qwen3")
    model.prepare(wanted_outputs={"logsumexp"})
    config: Any = TorchEngineConfig() if stage is None else DeepSpeedEngineConfig(stage=stage, config=PARTITION_ALL)
    options = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.0)
    engine = config.build(model, options, lambda optimizer: LambdaLR(optimizer, lambda step: 1.0), max_grad_norm=1e9)
    rows = model.tokenizer(QUERIES, DOCUMENTS)["input_ids"]
    own = [rows[:2], rows[2:]][process_group.rank() :: process_group.world_size()]
    for index, chunk in enumerate(own):
        output = engine.forward(padded(chunk))
        engine.backward((output["score"] - output["logsumexp"]).sum(), last=index == len(own) - 1)
    norm = engine.step()
    with engine.full_weights():
        weights = {name: value.detach().clone() for name, value in engine.model.named_parameters()}
    texts = {"what.": DOCUMENTS[:3], "x": [*QUERIES, "y"]}
    encoded = [model.tokenizer.encode_list(query, documents) for query, documents in texts.items()]
    lists = TokenSequences.concatenate([TokenSequences.from_encoding(encoding) for encoding in encoded])
    scores = score_lists(engine, lists, SIZES, model.tokenizer.padding, 300)
    return weights, scores, norm


def test_two_ranks_under_zero3_do_what_one_process_does(tiny_causal_dir):
    ((weights, scores, norm),) = run_ranks(update_and_score, 1, tiny_causal_dir, None)
    start = dict(build(tiny_causal_dir, "qwen3").named_parameters())
    assert all((weights[name] - value).abs().max() > 1e-5 for name, value in start.items())
    for other_weights, other_scores, other_norm in run_ranks(update_and_score, 2, tiny_causal_dir, 3):
        assert abs(other_norm - norm) < 1e-3 * norm
        torch.testing.assert_close(other_scores, scores, atol=1e-4, rtol=0)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, atol=1e-5, rtol=1e-4, msg=name)
