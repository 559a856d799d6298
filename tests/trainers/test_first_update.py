"""Adapters that the first update does not reach end the run; what has moved does not."""

from __future__ import annotations

import pytest
import torch

from launch.cli.compose import load
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig
from recipes.training_run import train
from trainers.first_update import check_adapters_moved


def test_adapters_at_zero_are_found(tiny_causal_dir):
    model = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", lora=LoRAConfig(r=2), max_length=256).build(0)
    adapters = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert len(adapters) > 10
    with pytest.raises(RuntimeError, match=f"all {len(adapters)} matrices B are still 0"):
        check_adapters_moved(model)
    with torch.no_grad():
        model.get_parameter(adapters[3])[0, 0] = 1e-9
    check_adapters_moved(model)
    check_adapters_moved(LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=256).build(0))


def test_a_run_whose_engine_updates_nothing_ends_at_the_first_step(tiny_run, tiny_reranker_dir, monkeypatch):
    monkeypatch.setattr("engines.torch_engine.TorchEngine.step", lambda engine, finite: 1.0)
    options = [f"model.name_or_path={tiny_reranker_dir}", "trainer.max_steps=2"]
    with pytest.raises(RuntimeError, match="first update did not reach"):
        train(load(["+exp=reranker_contrastive", *tiny_run, "model=cross_encoder_lora", *options]))
