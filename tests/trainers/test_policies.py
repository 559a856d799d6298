"""Every policy trains through the one trainer, and a run goes on between two updates of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from running import go_on, make_trainer, metrics_of

POLICIES = ["token_policy", "token_policy_expected", "selection_grpo", "subset_grpo", "setwise_choice"]
COMMON = ["+exp=reranker_grpo", "trainer.max_steps=4", "trainer.num_iterations=2", "trainer.save_every=1"]
COMMON += ["trainer.schedule=constant", "trainer.warmup_ratio=0"]  # not of max_steps, at which one run is stopped early


@pytest.mark.parametrize("loss", POLICIES)
def test_a_run_goes_on_in_the_middle_of_a_batch(loss: str, tiny_run: list[str]) -> None:
    """With the old policy that its actions were sampled from, and the reference."""
    options = [*COMMON, f"loss={loss}", "loss.beta=0.1", *tiny_run]
    whole, begun, going_on = go_on(options, 3)  # after the first update of the second batch
    for name, value in begun.old.items():
        assert torch.equal(going_on.old[name], value)
    going_on.fit()
    expected = [line for line in metrics_of(whole) if line["split"] == "train"]
    last = [line for line in metrics_of(going_on) if line["split"] == "train"][-1]
    assert last["step"] == 4
    for name in ("loss", "grad_norm", "score_checksum", "reward_mean", "kl"):
        assert last[name] == pytest.approx(expected[-1][name], rel=1e-5, abs=1e-7), name
    assert all(line["grad_norm"] > 0 for line in expected)


def language_model(folder: Path) -> list[str]:
    return [
        "model=llm_reranker_qwen3",
        f"model.name_or_path={folder}",
        "model.max_length=192",
        "trainer.token_budget=1024",
    ]


@pytest.mark.parametrize("loss", ["plackett_luce_grpo", "subset_grpo"])
def test_policies_of_lists_train_a_language_model(loss: str, tiny_run: list[str], tiny_causal_dir: Path) -> None:
    options = ["+exp=llm_reranker_grpo", f"loss={loss}", *tiny_run, *language_model(tiny_causal_dir)]
    trainer = make_trainer([*options, "trainer.max_steps=2"])
    trainer.fit()
    lines = [line for line in metrics_of(trainer) if line["split"] == "train"]
    assert all(line["grad_norm"] > 0 and 0 < line["reward_mean"] < 1 for line in lines)
    assert lines[0]["score_checksum"] != lines[1]["score_checksum"]


def test_a_language_model_learns_among_its_vocabulary(tiny_run: list[str], tiny_causal_dir: Path) -> None:
    """The reference, precomputed, has the vocabulary too, and the divergence from it begins at 0."""
    options = ["+exp=llm_reranker_grpo", "loss=token_policy_vocabulary", "loss.beta=0.1", *tiny_run]
    trainer = make_trainer([*options, *language_model(tiny_causal_dir), "trainer.max_steps=3"])
    trainer.fit()
    first, *_, last = (line for line in metrics_of(trainer) if line["split"] == "train")
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert last["kl"] > 1e-5
    assert 0 <= first["reward_mean/correctness"] <= first["reward_mean/format"] < 0.5, "a random model answers anything"
    assert set(trainer.old) == {"scores", "logsumexp"}
    assert trainer.reference.stored
    assert all(len(values) == 2 for values in trainer.reference.stored.values())
