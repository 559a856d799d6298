"""Whole runs on a tiny model: every experiment trains, and leaves a complete run directory that other tools can use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data import progress
from data.formats.trec import read_trec_run
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from models.cross_encoder import CrossEncoder
from models.export.folder import card_on_hub
from recipes.training_run import train
from runs.stored_run import StoredRun

FILES = sorted((Path(__file__).parents[2] / "conf" / "exp").glob("*.yaml"))
EXPERIMENTS = [file.stem for file in FILES if "\nstages:" not in file.read_text()]  # the others: test_stages.py
SUMMARY = {
    "metric",
    "first_stage",
    "before",
    "after",
    "fused",
    "best_dev",
    "stages",
    "steps",
    "seconds",
    "rows_per_s",
    "tokens_per_s",
    "peak_memory_bytes",
    "engine",
    "world_size",
}


@pytest.fixture
def models(tiny_reranker_dir: Path, tiny_models: ModuleType, tmp_path: Path) -> dict[str, list[str]]:
    """What experiments need beside the tiny encoder: the models that their commands name, a decoder, few dimensions."""
    decoder = tiny_models.write_tiny_decoder(tmp_path / "decoder")
    causal = tiny_models.write_tiny_causal(tmp_path / "causal", architecture="qwen3")
    llm = [f"model.name_or_path={causal}", "model.template=qwen3", "model.max_length=192", "trainer.token_budget=1024"]
    teacher = [f"teacher.name_or_path={tiny_reranker_dir}", "teacher.max_length=48"]
    return {
        "colbert_distill": teacher,
        "splade_distill": teacher,
        "embedder_distill": teacher,
        "reranker_distill": teacher,
        "reranker_distill_pointwise": teacher,
        "embedder_distill_embeddings": [
            f"teacher.name_or_path={decoder}",
            "model.teacher_projection=32",
        ],
        "reranker_preference": [f"model.name_or_path={tiny_reranker_dir}"],
        "embedder_qwen3": [f"model.name_or_path={decoder}"],
        "embedder_matryoshka": ["loss.dims=[32,16]", "eval.dims=[16]"],
    } | {name: llm for name in EXPERIMENTS if name.startswith("llm_reranker")}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_leaves_a_complete_run_directory(
    experiment: str,
    tiny_run: list[str],
    models: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        *models.get(experiment, []),
        *(["eval.depth=100"] if not experiment.startswith(("reranker", "llm_reranker")) else []),
    ]
    best_dev = train(load([f"+exp={experiment}", *tiny_run, *options, "trainer.max_steps=2"]))
    run = tmp_path / "outputs" / experiment
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "environment.json", "metrics.jsonl", "summary.json", "checkpoints", "model"}
    assert names >= {"report.html", "queries.json", "runs"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary.keys() >= SUMMARY
    assert summary["best_dev"] == best_dev
    assert summary["stages"] == [{"name": experiment, "metric": summary["after"]}]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in lines] == [
        *(("test", 0), ("dev", 0), ("train", 1), ("train", 2), ("dev", 2), ("test", 2), ("test", 2))
    ]
    assert all(line["grad_norm"] > 0 for line in lines if line["split"] == "train")
    queries = StoredRun.read(run).queries()
    assert len(queries) == summary["test_queries"]
    for name in ("before", "after"):
        values = [line["values"][name][summary["metric"]] for line in queries.values()]
        assert sum(values) / len(values) == pytest.approx(summary[name])
        assert all(len(line["documents"][name]) == 3 for line in queries.values())
    assert "data:image" in (run / "report.html").read_text()
    printed = capsys.readouterr().out
    assert f"{summary['after']:.4f}" in printed
    assert "first stage" in printed


def test_stored_documents_are_measured_before_and_after_and_exported_with_their_ranges(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["eval.depth=100", "eval.dims=[8]", "trainer.max_steps=8", "trainer.eval_every=2"]
    options += ["eval.metric=MAP", "trainer.optimizer=adamw", "trainer.learning_rate=1e-3"]
    train(load(["+exp=embedder_quantization_aware", *tiny_run, *options]))
    run = tmp_path / "outputs" / "embedder_quantization_aware"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_step"], "the starting model has no ranges"
    metrics = summary["metrics"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for form in ("int8", "binary", "dim8/int8"):
        for name in (f"nDCG@10/{form}", f"overlap@10/{form}"):
            assert {*metrics["before"], *metrics["after"]} >= {name}
            assert all(name in line for line in lines if line["split"] == "dev")
    assert {"loss/fp32", "loss/int8", "loss/binary"} <= next(line.keys() for line in lines if line["split"] == "train")
    card, page = (run / "model" / "README.md").read_text(), (run / "report.html").read_text()
    assert "after, dim 8, binary" in card
    assert "after, int8" in capsys.readouterr().out
    assert "Dev MAP, dim 8, int8" in page
    assert f'ranges=np.load("{run / "model"}/int8_ranges.npy")' in card
    uploaded = card_on_hub(card, run / "model", "me/model")
    assert 'ranges=np.load(hf_hub_download("me/model", "int8_ranges.npy"))' in uploaded
    assert "from huggingface_hub import hf_hub_download" in uploaded
    assert str(run) not in uploaded
    assert np.load(run / "model" / "int8_ranges.npy").shape == (2, 32)


def test_the_export_scores_as_the_trained_model_did(tiny_run: list[str], tiny_beir_dir: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    train(load(["+exp=reranker_contrastive", *tiny_run, "trainer.max_steps=4", "trainer.eval_every=2"]))
    run = tmp_path / "outputs" / "reranker_contrastive"
    texts = {
        record["_id"]: record["text"]
        for name in ("corpus", "queries")
        for record in map(json.loads, (tiny_beir_dir / f"{name}.jsonl").read_text().splitlines())
    }
    scores = read_trec_run(run / "runs" / "after.run")
    pairs = [(query, document) for query, documents in scores.items() for document in documents]
    model = sentence_transformers.CrossEncoder(str(run / "model"))
    predicted = model.predict([(texts[query], texts[document]) for query, document in pairs])
    assert predicted.tolist() == pytest.approx([scores[query][document] for query, document in pairs], abs=1e-5)
    assert not CrossEncoder.load(run / "model").fresh_head


LORA = ["model=cross_encoder_lora", "loss.beta=0.1", "loss.num_generations=16", "trainer.num_iterations=2"]


def train_here(overrides: list[str]) -> float | None:
    """A whole run on this rank; the best dev metric."""
    return train(load(overrides))


@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_a_whole_run_on_two_ranks_exports_what_one_process_does(
    engine: str, tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    common = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.learning_rate=0.5"]
    runs = {}
    for name, ranks in (("one", 1), ("two", 2)):
        overrides = ["+exp=reranker_grpo", *LORA, *tiny_overrides(tmp_path / name), *common]
        found = run_ranks(train_here, ranks, [*overrides, *([f"engine={engine}"] if ranks == 2 else [])])
        runs[name] = tmp_path / name / "outputs" / "reranker_grpo"
        assert found == [json.loads((runs[name] / "summary.json").read_text())["best_dev"]] * ranks
    one, two = (json.loads((run / "summary.json").read_text()) for run in runs.values())
    assert two["world_size"] == 2
    assert two["best_step"] == one["best_step"]
    for name in ("first_stage", "before", "after", "fused", "best_dev", "fusion_weight"):
        assert two[name] == pytest.approx(one[name], abs=1e-4), name
    weights, others = (load_file(run / "model" / "model.safetensors") for run in runs.values())
    torch.testing.assert_close(others, weights, rtol=1e-4, atol=1e-5)


def test_scores_of_the_start_are_stored_whole_and_said_once(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(["+exp=reranker_contrastive", *tiny_run, "trainer.max_steps=2"])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("recipes.baseline.record", "recipes.finish.write_report", "recipes.train_model.export_model"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(settings)
    train(settings)
    run = tmp_path / "outputs" / "reranker_contrastive"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = [line for line in lines if line.get("name") == "before"]
    assert len(before) == 1
    assert before[0]["nDCG@10"] == json.loads((run / "summary.json").read_text())["before"]
    assert [line["name"] for line in lines if line["split"] == "test"] == ["before", "after", "fused"]
    assert (run / "report.html").is_file()


def test_a_finished_run_is_shown_and_not_run_again(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["+exp=reranker_contrastive", *tiny_run, "trainer.max_steps=2"]
    train(load(config))
    metrics = tmp_path / "outputs" / "reranker_contrastive" / "metrics.jsonl"
    before = metrics.read_text()
    capsys.readouterr()
    train(load(config))
    assert "is finished (2 steps)" in capsys.readouterr().out
    assert metrics.read_text() == before
    with pytest.raises(ValueError, match=r"started with other settings: seed 42 -> 7"):
        train(load([*config, "seed=7"]))


def test_a_model_that_is_not_trained_is_refused(tiny_beir_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"train model=cross_encoder, llm_reranker or bi_encoder"):
        train(load(["+exp=reranker_grpo", "model=bm25", "data=beir", f"data.path={tiny_beir_dir}"]))


def test_a_model_that_cannot_be_had_is_known_before_the_data_is_read(tiny_run: list[str], tmp_path: Path) -> None:
    overrides = ["+exp=reranker_grpo", *tiny_run, f"data.path={tmp_path / 'absent'}"]
    with pytest.raises((ValueError, OSError), match=r"no-such-model"):
        train(load([*overrides, "model.name_or_path=./no-such-model"]))


def test_an_adapter_is_exported_alone_where_it_is_asked_for(tiny_run: list[str], tmp_path: Path) -> None:
    options = ["model=cross_encoder_lora", *tiny_run, "adapter_only=true", "run_name=adapter"]
    train(load(["+exp=reranker_contrastive", *options, "trainer.max_steps=1"]))
    files = {file.name for file in (tmp_path / "outputs" / "adapter" / "model").iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files


def test_a_hub_that_refuses_leaves_the_run_finished(tiny_run: list[str], monkeypatch, caplog) -> None:
    asked = []

    def refuse(folder: Path, name: str) -> str:
        asked.append((folder.name, name))
        raise ValueError(f"hub {name}: not logged in")

    monkeypatch.setattr("recipes.finish.push_to_hub", refuse)
    options = ["+exp=reranker_contrastive", *tiny_run, "trainer.max_steps=1", "push_to_hub=me/reranker"]
    train(load(options))
    assert asked == [("model", "me/reranker")]
    assert "is not uploaded (the same command tries again): hub me/reranker: not logged in" in caplog.text
    train(load(options))
    assert len(asked) == 2


def test_the_steps_of_a_run_are_shown_and_evaluations_are_no_steps_of_the_training(
    tiny_run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    options = ["trainer.max_steps=4", "trainer.eval_every=2", "eval.token_budget=64"]
    train(load(["+exp=reranker_listwise", *tiny_run, *options]))
    lines = capsys.readouterr().err.splitlines()
    titles = [line.partition(":")[0] for line in lines if re.search(r": \d+ of \d+ ", line)]
    parts = list(dict.fromkeys(title for title in titles if "scoring" in title or title == "training"))
    assert parts == [
        "test before training, scoring",
        "dev at step 0, scoring",
        "training",
        "dev at step 2, scoring",
        "dev at step 4, scoring",
        "test after training, scoring",
    ]
    steps = [line for line in lines if line.startswith("training: ")]
    assert [line.split(",")[0] for line in steps] == [f"training: {number} of 4 steps" for number in (1, 2, 3)]
    assert "step 0: dev nDCG@10" in "\n".join(lines)
