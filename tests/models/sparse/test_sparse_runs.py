"""Runs of a sparse encoder, as their experiments say: they go on where they were, and policies train it too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from running import go_on, make_trainer, metrics_of

from launch.cli.compose import load
from recipes.choose import measure
from recipes.choose.entries import Entry
from recipes.choose.store import Measurement
from recipes.negatives.scoring import build_scorer

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
    whole, _, going_on = go_on(options, 2)
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


def test_weights_by_idf_are_of_the_corpus_wherever_a_model_starts(
    tiny_run: list[str], tmp_path: Path, sparse_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher, a model that scores lists, and one that is measured for a choice; else all weights would be 1."""
    teacher = ["model@teacher=sparse_encoder", f"teacher.name_or_path={sparse_dir}", "teacher.query_weights=idf"]
    own = ["+exp=splade_distill", *tiny_run, f"model.name_or_path={sparse_dir}", "eval.depth=100"]
    trainer = make_trainer([*own, *teacher])
    found = [trainer.auxiliary_models["teacher"].model.model]
    settings = load([*own, *teacher])
    scoring = SimpleNamespace(precision="fp32", seed=1)
    found.append(build_scorer(scoring, settings.teacher, settings.data.build())[0].model)

    def keep(bench: object, model: torch.nn.Module, runner: object) -> Measurement:
        found.append(model)
        return Measurement({}, {}, {})

    monkeypatch.setattr(measure, "_embedder", keep)
    data = [option for option in tiny_run if option.startswith("data.")]
    choice = load(["data=beir", *data, f"models=[{sparse_dir}]", f"output={tmp_path / 'choice'}"], "choose")
    measure.measure_model(measure.Bench(choice, choice.data.build()), Entry("sparse", "sparse", settings.teacher))
    assert len(found) == 3
    assert all(len(model.token_weights.weight.unique()) > 5 for model in found)
