"""The starting model's scores are shared by runs that would make the same ones, and by no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from evaluation.evaluator import EvaluationResult
from evaluation.metrics import Metrics
from launch.cli.compose import load
from recipes.baseline import baseline_folder, read_baseline, save_baseline


def folder_of(options: list[str]) -> Path:
    settings = load(options)
    return baseline_folder(settings, settings.data.build(), settings.model.build(settings.seed))


def test_the_name_depends_on_what_makes_the_scores(tiny_run: list[str]) -> None:
    one = folder_of(["+exp=reranker_contrastive", *tiny_run])
    assert folder_of(["+exp=reranker_listwise", *tiny_run, "trainer.learning_rate=1"]) == one
    for other in ("seed=7", "eval.depth=7", "model.max_length=32", "data.query_prompt='query: '"):
        assert folder_of(["+exp=reranker_contrastive", *tiny_run, other]) != one, other


def test_int8_ranges_count_once_they_are_known(tiny_run: list[str]) -> None:
    settings = load(["+exp=embedder_infonce", *tiny_run, "eval.depth=100"])
    data, model = settings.data.build(), settings.model.build(settings.seed)
    plain = baseline_folder(settings, data, model)
    model.track_int8_ranges([32])
    assert baseline_folder(settings, data, model) == plain, "quantisation-aware training starts from the same scores"
    model.int8_ranges.keep({32: torch.tensor([[-1.0] * 32, [1.0] * 32])})
    assert baseline_folder(settings, data, model) != plain


def test_the_name_depends_on_what_the_folder_of_the_model_says(
    tiny_run: list[str], tiny_bert_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "model")
    options = ["+exp=embedder_infonce", *tiny_run, "eval.depth=100", f"model.name_or_path={folder}"]
    found = [folder_of(options)]
    entries = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules = [
        {"idx": int(i), "name": i, "path": p, "type": f"sentence_transformers.models.{t}"} for i, p, t in entries
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    for mode in ("mean", "cls"):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
        found.append(folder_of(options))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "find: "}}))
    found.append(folder_of(options))
    assert len(set(found)) == 4


def test_another_run_reads_what_one_wrote(tmp_path: Path) -> None:
    result = EvaluationResult(Metrics({"MAP": 0.5}, {"MAP": {"q": 0.5}}), {"q": {"d": 1.0}})
    known = tmp_path / "known"
    assert read_baseline(tmp_path / "first", known) is None
    save_baseline(tmp_path / "first", known, result)
    assert read_baseline(tmp_path / "second", known) == result.metrics
    assert (tmp_path / "second" / "before.run").read_text() == (tmp_path / "first" / "before.run").read_text()
    assert read_baseline(tmp_path / "first", tmp_path / "nowhere") == result.metrics
