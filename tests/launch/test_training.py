"""Whole runs on a tiny model: every experiment trains, and leaves a complete run directory that other tools can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.run_files import read_trec_run
from launch.compose import compose
from launch.training import train
from models.cross_encoder import CrossEncoder

EXPERIMENTS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "exp").glob("*.yaml"))
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


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_leaves_a_complete_run_directory(
    experiment: str, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best_dev = train(compose([f"+exp={experiment}", *tiny_run, "trainer.max_steps=2"]))
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
    assert "data:image" in (run / "report.html").read_text()
    printed = capsys.readouterr().out
    assert f"{summary['after']:.4f}" in printed
    assert "first stage" in printed


def test_the_export_scores_as_the_trained_model_did(tiny_run: list[str], tiny_beir_dir: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    train(compose(["+exp=reranker_supervised", *tiny_run, "trainer.max_steps=4", "trainer.eval_every=2"]))
    run = tmp_path / "outputs" / "reranker_supervised"
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


def test_a_finished_run_is_shown_and_not_run_again(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["+exp=reranker_supervised", *tiny_run, "trainer.max_steps=2"]
    train(compose(config))
    metrics = tmp_path / "outputs" / "reranker_supervised" / "metrics.jsonl"
    before = metrics.read_text()
    capsys.readouterr()
    train(compose(config))
    assert "is finished (2 steps)" in capsys.readouterr().out
    assert metrics.read_text() == before
    with pytest.raises(ValueError, match=r"begun with other settings: seed 42 -> 7"):
        train(compose([*config, "seed=7"]))


@pytest.mark.parametrize("model", ["bm25", "bi_encoder"])
def test_a_model_that_is_not_trained_here_is_refused(model: str, tiny_beir_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"train model=cross_encoder or model=cross_encoder_lora"):
        train(compose(["+exp=reranker_grpo", f"model={model}", "data=beir", f"data.path={tiny_beir_dir}"]))


def test_a_model_that_cannot_be_had_is_known_before_the_data_is_read(tiny_run: list[str], tmp_path: Path) -> None:
    overrides = ["+exp=reranker_grpo", *tiny_run, f"data.path={tmp_path / 'absent'}"]
    with pytest.raises((ValueError, OSError), match=r"no-such-model"):
        train(compose([*overrides, "model.name_or_path=./no-such-model"]))
