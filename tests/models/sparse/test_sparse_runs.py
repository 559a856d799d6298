"""Runs of a sparse encoder, as their experiments say: they go on where they were, and policies train it too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from running import make_trainer, metrics_of

STEPS = 4
EXPERIMENTS = {
    "distill": ["+exp=splade_distill", "teacher.max_length=48"],
    "free queries": ["+exp=splade_infonce", "model.query_weights=idf", "~loss.terms.query", "model.document_terms=20"],
    "grpo": ["+exp=embedder_grpo", "model=sparse_encoder", "eval=retrieval_sparse", "model.temperature=5.0"],
}
COMPARED = ("loss", "grad_norm", "score_checksum", "reward_mean", "document/nonzeros")


@pytest.fixture
def sparse_dir(tmp_path: Path, tiny_models) -> Path:
    """A tiny encoder without a head, whose vocabulary is padded."""
    return tiny_models.write_tiny(tmp_path / "bert", "bert")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_goes_on_where_it_was(
    name: str, tiny_run: list[str], tmp_path: Path, tiny_reranker_dir: Path, sparse_dir: Path
) -> None:
    options = [*EXPERIMENTS[name], *tiny_run, f"model.name_or_path={sparse_dir}", f"trainer.max_steps={STEPS}"]
    options += [
        "trainer.save_every=1",
        "trainer.schedule=constant",
        "trainer.warmup_ratio=0",
        "trainer.token_budget=100",
    ]
    options += ["trainer.learning_rate=0.01", "eval.depth=100"]
    options += [f"teacher.name_or_path={tiny_reranker_dir}"] if name == "distill" else []
    whole = make_trainer([*options, "run_name=whole"])
    whole.fit()
    begun = make_trainer([*options, "run_name=interrupted"])
    begun.max_steps = 2
    begun.fit()
    going_on = make_trainer([*options, "run_name=interrupted"])
    going_on.resume()
    assert going_on.state.step == 2
    going_on.fit()
    expected, found = ([line for line in metrics_of(run) if line["split"] == "train"] for run in (whole, going_on))
    assert len(expected) == len(found) == STEPS
    for one, two in zip(expected, found, strict=True):
        assert {key: two[key] for key in COMPARED if key in one} == {key: one[key] for key in COMPARED if key in one}
    assert len({line["grad_norm"] for line in expected}) == STEPS
    torch.testing.assert_close(
        dict(going_on.engine.model.named_parameters()), dict(whole.engine.model.named_parameters()), rtol=0, atol=0
    )
    if name != "grpo":
        assert all(line["document/nonzeros"] > 1 for line in expected)
