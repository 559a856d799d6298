"""Whole runs of LLM rerankers: adapters under ZeRO-3 on two ranks, and from a trained model to a ranking."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data.formats.trec import read_trec_run
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from launch.rerank import main
from models.llm_reranker import LLMReranker
from plackett import Reranker
from recipes.training_run import train

MODEL = ["model.max_length=192", "trainer.token_budget=1024", "trainer.max_steps=3", "trainer.eval_every=3"]


def train_here(overrides: list[str]) -> float | None:
    """A whole run on this rank; the best dev metric."""
    return train(load(overrides))


def texts_of(folder: Path) -> dict[str, str]:
    files = [(folder / f"{name}.jsonl").read_text() for name in ("corpus", "queries")]
    records = [json.loads(line) for text in files for line in text.splitlines()]
    return {record["_id"]: record["text"] for record in records}


def test_adapters_under_zero3_on_two_ranks_move_and_are_saved_whole(
    tiny_overrides: Callable[[Path], list[str]], tiny_causal_dir: Path, tiny_beir_dir: Path, tmp_path: Path
) -> None:
    options = [f"model.name_or_path={tiny_causal_dir}", "model.template=qwen3", *MODEL, "trainer.learning_rate=0.5"]
    partition_all = "engine.config={zero_optimization:{stage3_param_persistence_threshold:0}}"  # also small weights
    engine = ["engine=zero3", partition_all, "adapter_only=true"]
    overrides = ["+exp=llm_reranker_sft", *tiny_overrides(tmp_path), "model=llm_reranker_lora", *options, *engine]
    run_ranks(train_here, 2, overrides)
    run = tmp_path / "outputs" / "llm_reranker_sft"
    adapter = load_file(run / "model" / "adapter_model.safetensors")
    assert not (run / "model" / "model.safetensors").exists()
    assert adapter
    assert all(tensor.numel() > 0 and tensor.abs().max() > 0 for tensor in adapter.values()), "B has moved"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["world_size"], summary["engine"]) == (2, "zero3")
    assert summary["best_step"] == 3, "the export is the trained model"
    scores, texts = read_trec_run(run / "runs" / "after.run"), texts_of(tiny_beir_dir)
    query, expected = next(iter(scores.items()))
    found = Reranker.load(run / "model").predict([(texts[query], texts[name]) for name in expected], raw=True)
    assert found.tolist() == pytest.approx(list(expected.values()), abs=1e-4)


def test_rerank_reads_an_llm_reranker(tiny_causal_dir, tmp_path, capsys):
    from models.llm_reranker import LLMRerankerConfig

    model = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=192).build(0)
    model.export(tmp_path / "model")
    folder = str(tmp_path / "model")
    documents = ["green apple", "red pear " * 100]
    main([folder, "--query", "apple", *documents, "--raw", "--json"])
    printed = capsys.readouterr()
    rows = {row["text"]: row["score"] for row in json.loads(printed.out)["results"]}
    assert "cut: 0 of 1 queries (0.0%) and 1 of 2 documents (50.0%)" in printed.err
    main([folder, "--query", "apple", *documents, "--raw", "--json", "--instruction", "rank fruit"])
    assert rows != {row["text"]: row["score"] for row in json.loads(capsys.readouterr().out)["results"]}
    with pytest.raises(ValueError, match="the prompt takes"):
        main([folder, "--query", "apple", *documents, "--instruction", "long " * 100])
    assert LLMReranker.load(folder).tokenizer.max_length == 192


def test_a_plan_counts_what_an_llm_reranker_reads(tiny_run, tiny_causal_dir):
    from launch.cli.compose import load
    from recipes.cost_plan.workload import build_workload

    options = [f"model.name_or_path={tiny_causal_dir}", "model.template=qwen3", *MODEL]
    settings = load(["+exp=llm_reranker_sft", *tiny_run, *options])
    subject = build_workload(settings, settings.data.build(), autocast=None)
    assert set(subject.features) == {"input_ids", "attention_mask"}
    assert subject.model.chunk(subject.features, 2, 150).held > 0


def test_an_llm_reranker_teaches_a_cross_encoder(tiny_run, tiny_causal_dir, tmp_path):
    teacher = ["model@teacher=llm_reranker", f"teacher.name_or_path={tiny_causal_dir}", "teacher.template=qwen3"]
    train(load(["+exp=reranker_distill", *tiny_run, *teacher, "teacher.max_length=192", "trainer.max_steps=2"]))
    lines = (tmp_path / "outputs" / "reranker_distill" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] > 0 for line in lines if '"train"' in line] == [True, True]
