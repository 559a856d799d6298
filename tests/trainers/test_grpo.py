"""GRPO: the starting policy is its own reference, to the bit, and nothing is drawn but the rankings."""

from __future__ import annotations

import pytest
import torch
from running import make_trainer, run_several

from engines.distributed.testing import run_ranks

KL = ["+exp=reranker_grpo", "loss.beta=0.1", "trainer.max_steps=2", "trainer.reference=frozen"]


@pytest.mark.parametrize("model", ["cross_encoder", "cross_encoder_lora"])
@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_the_divergence_begins_at_zero_in_bf16(engine: str, model: str, tiny_run: list[str]) -> None:
    options = [*KL, f"model={model}", f"engine={engine}", "engine.precision=bf16", *tiny_run]
    ((metrics, _),) = run_ranks(run_several, 1, [options])[0]
    divergence = [line["kl"] for line in metrics if line["split"] == "train"]
    assert divergence[0] == 0
    assert divergence[1] > 0


def test_dropout_is_off(tiny_run: list[str]) -> None:
    trainer = make_trainer([*KL, *tiny_run])
    features = {"input_ids": torch.arange(5, 25).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    trainer.engine.model.train()
    first, second = (trainer.engine.forward(features)["score"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("option", [["model.dropout=0.1"], ["model=cross_encoder_lora", "model.lora.dropout=0.1"]])
def test_dropout_that_was_asked_for_is_refused(option: list[str], tiny_run: list[str]) -> None:
    with pytest.raises(ValueError, match=r"GRPOTrainer runs without dropout, got 0.1: set model.dropout"):
        make_trainer([*KL, *option, *tiny_run])
    make_trainer([*KL, *tiny_run, "model.dropout=0.0"])


@pytest.mark.parametrize(("temperature", "said"), [(1e-9, 1), (1.0, 0)])
def test_a_policy_that_samples_one_action_only_is_said(
    temperature: float, said: int, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["+exp=reranker_grpo", "loss=token_policy", f"loss.temperature={temperature}"]
    make_trainer([*options, *tiny_run, "trainer.max_steps=14"]).fit()
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("so nothing is learned") == said
