"""Pairs of degrees are trained on and measured by correlation."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rated_pairs import COSENT, RATINGS, STS, pairs, read, result, run, write
from scipy.stats import spearmanr

from data.collection import Collection
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.sampling.mixture import MixtureConfig
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from launch.inspect_data import inspect_path
from models.bi_encoder import BiEncoderConfig
from recipes.evaluate.run import evaluate
from recipes.preparation import prepare


def test_pairs_of_degrees_are_correlated_and_the_run_says_so(
    tmp_path: Path, settings: Callable[..., list[str]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
):
    """The experiment's eval=retrieval gives way; config.yaml names what was used, and a resumed run compares equal."""
    path = write(tmp_path / "rows.csv", pairs(STS))
    with caplog.at_level(logging.WARNING):
        best = run(settings(path, *COSENT, "trainer.learning_rate=0.01"))
    assert caplog.text.count("eval=similarity is used instead of a ranking") == 1
    summary, config, lines = result(tmp_path)
    assert config["eval"]["_target_"] == "evaluation.similarity_evaluator.SimilarityConfig"
    assert config["eval_of_degrees"] is None
    dev = [line["Spearman"] for line in lines if line["split"] == "dev"]
    assert summary["best_dev"] == max(dev) == best
    assert [line["name"] for line in lines if line["split"] == "test"] == ["before", "after"]
    keys = ("first_stage", "fused", "fusion_weight", "recall_ceiling")
    assert [summary[key] for key in keys] == [None] * 4
    assert (summary["ceiling"], summary["tests"], summary["test_pairs"]) == ({}, {}, 4)
    assert set(summary["metrics"]) == {"before", "after"}
    folder = tmp_path / "outputs" / "run"
    assert sorted(file.name for file in (folder / "runs").iterdir()) == ["after.run", "before.json", "before.run"]
    card, report = (folder / "model" / "README.md").read_text(), (folder / "report.html").read_text()
    assert "On 4 test pairs:" in card
    assert "<h2>Test pairs</h2>" in report
    printed = capsys.readouterr().out
    for text in (card, re.sub(r"config.*", "", report.split("<h2>Settings")[0]), printed):
        assert "Spearman" in text
        assert "first stage" not in text
        assert "fused" not in text
    run(settings(path, *COSENT, "trainer.learning_rate=0.01"))
    assert "is finished (4 steps)" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_with_the_same_values(
    tmp_path: Path, settings: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    path = write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9)))
    overrides = settings(path, "+exp=reranker_bce", "loss=bce_soft", "trainer.learning_rate=0.01")
    run([*overrides, "run_name=whole"])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recipes.train_model.load_best", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(overrides)
    run(overrides)
    whole, resumed = result(tmp_path, "whole")[0], result(tmp_path)[0]
    assert all(whole[key] == resumed[key] for key in ("before", "after", "best_dev", "best_step", "metrics"))


def test_two_ranks_train_and_measure_as_one(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    found = {}
    for ranks in (1, 2):
        overrides = settings(path, *COSENT, "trainer.optimizer=sgd", f"run_name=ranks{ranks}")
        run_ranks(run, ranks, overrides)
        found[ranks] = result(tmp_path, f"ranks{ranks}")[0]
    for key in ("before", "after", "best_dev"):
        assert found[2][key] == pytest.approx(found[1][key], abs=1e-4)


def test_a_run_with_stages(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9)))
    stages = ["+exp=reranker_three_stage", "stages=[contrastive,preference]", "loss@stage.contrastive.loss=bce_soft"]
    stages += ["loss@stage.preference.loss=bce_soft", "stage.preference.trainer.reference=precomputed"]
    run(settings(path, *stages, "trainer.learning_rate=0.001"))
    summary, config, _ = result(tmp_path)
    assert config["eval"]["metric"] == summary["metric"] == "Spearman"
    assert [stage["metric"] for stage in summary["stages"]][-1] == summary["after"]
    assert not (tmp_path / "outputs" / "run" / "queries.json").exists()
    assert not (tmp_path / "outputs" / "run" / "runs" / "queries.jsonl").exists()


def test_a_chosen_ranking_of_degrees_is_refused(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    for chosen in (["eval=retrieval"], ["eval=reranking"], ["eval.metric=MRR@10"]):
        with pytest.raises(
            ValueError, match=r"rows.csv: the label 4.8 is no integer, so .*: choose eval=similarity, or"
        ):
            run(settings(path, *COSENT, *chosen))
    assert not (tmp_path / "outputs").exists()


def test_other_options_of_the_evaluation_are_kept(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    loaded = load(settings(path, *COSENT, "eval.max_queries=7", "eval.depth=200", "eval_of_degrees.metric=Pearson"))
    assert (loaded.eval_of_degrees.max_queries, loaded.eval_of_degrees.metric) == (7, "Pearson")
    assert load(settings(path, *COSENT, "eval=similarity")).eval_of_degrees is None


def test_evaluate_measures_pairs_of_degrees(tmp_path: Path, tiny_bert_dir: Path):
    path = write(tmp_path / "rows.csv", pairs(STS))
    held_out = [f"data.test_path={write(tmp_path / 'test.csv', [(f'{a} z', b, x) for a, b, x in pairs(STS, 50)])}"]
    common = ["data=file", f"data.path={path}", *held_out, f"data.cache_dir={tmp_path}"]
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
    value = evaluate(load([*common, *model, f"output={tmp_path / 'out.json'}"], "evaluate"))
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["metric"], summary["model"], summary["test_pairs"]) == ("Spearman", value, 50)
    assert (summary["tests"], summary["fusion_weight"]) == ({}, None)
    data = read(path, test_path=str(tmp_path / "test.csv"))
    # Rounding, which depends on the batch, may part equal similarities or exchange neighbours.
    assert value == pytest.approx(by_hand(data, tiny_bert_dir), abs=2e-4)
    for more, message in (
        (["model=bm25"], "the label 4.8 is no integer, .* relevant: set data.relevant_from=X"),
        (["model=bm25", "eval=similarity"], "model=bm25 gives no scores of pairs.*: choose eval=retrieval"),
        ([*model, "eval=retrieval"], "choose eval=similarity, or set data.relevant_from=X"),
        ([*model, "eval=similarity", "fusion_weight=0.5"], "eval=similarity fuses with nothing, leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(load([*common, *more], "evaluate"))


def by_hand(data: Collection, folder: Path) -> float:
    """Spearman's correlation of the test pairs, from the model itself, text by text."""
    model = BiEncoderConfig(name_or_path=str(folder), max_length=32).build(0).eval()

    def embed(text: str, role: str) -> torch.Tensor:
        row = torch.tensor(model.tokenizer([text], role=role)["input_ids"])
        features = {"input_ids": row, "attention_mask": torch.ones_like(row), "token_type_ids": torch.zeros_like(row)}
        with torch.no_grad():
            return model(**features)["embedding"][0]

    test = data.split("test")
    scored = [
        (label, float(embed(test.queries[query], "query") @ embed(data.documents[document], "document")))
        for query, judged in test.labels.items()
        for document, label in judged.items()
    ]
    return float(spearmanr(*zip(*scored, strict=True)).statistic)


def test_binary_pairs_are_ranked_unless_the_correlation_is_chosen(
    tmp_path: Path, settings: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path / "quora.csv", pairs((0, 1)), "label")
    prepared = prepare(load(settings(path, *COSENT)))
    assert prepared.settings.eval.ranks
    assert "eval=similarity eval.metric=AP" in caplog.text
    run(settings(path, *COSENT, "eval=similarity", "eval.metric=AP"))
    summary = result(tmp_path)[0]
    assert summary["metric"] == "AP"
    assert set(summary["metrics"]["after"]) == {"AP", "Spearman", "Pearson"}
    assert summary["test_pairs"] == 4


def test_too_few_pairs_are_one_line_before_training(tmp_path: Path, settings: Callable[..., list[str]]):
    for count in (0, 1, 2):
        path = write(tmp_path / "rows.csv", pairs(STS, count)) if count else write(tmp_path / "rows.csv", [])
        with pytest.raises(
            ValueError,
            match=r"has no rows|no test split: of its . queries .* too few|of different labels|all labels are",
        ):
            prepare(load(settings(path, *COSENT)))
    path = write(tmp_path / "rows.csv", [(f"a {i}", f"b {i}", 0.5) for i in range(30)])
    with pytest.raises(ValueError, match=r"all labels are 0.5, from which nothing is learned"):
        run(settings(path, *COSENT))
    assert not (tmp_path / "outputs").exists()


def test_splits_of_two_kinds_are_refused_before_training(tmp_path: Path, settings: Callable[..., list[str]]):
    rows = [(query, document) for query, document, _ in pairs(STS)]
    (tmp_path / "rows.csv").write_text("".join(f"{a},{b}\n" for a, b in [("anchor", "positive"), *rows]))
    dev = write(tmp_path / "dev.csv", [(f"{a} z", b, x) for a, b, x in pairs((0.1, 0.5, 0.9), 12)])
    with pytest.raises(
        ValueError, match=r"labels of dev are degrees .*those of test are not .*: give data.test_path with"
    ):
        prepare(load(settings(str(tmp_path / "rows.csv"), "+exp=embedder_infonce", f"data.dev_path={dev}")))
    path = write(tmp_path / "sts.csv", pairs(STS))
    with pytest.raises(ValueError, match=r"no test split: data.test_fraction=0; name a file of test queries"):
        prepare(load(settings(path, *COSENT, "data.test_fraction=0")))
    with pytest.raises(ValueError, match=r"eval.metric=AP needs labels of relevance"):
        prepare(load(settings(path, *COSENT, "eval=similarity", "eval.metric=AP")))
    assert not (tmp_path / "outputs").exists()


def test_options_without_effect_are_named(
    tmp_path: Path, settings: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
):
    prepare(load(settings(write(tmp_path / "rows.csv", pairs(STS)), *COSENT, "eval.dims=[8]")))
    assert "instead of a ranking, without eval.dims; " in caplog.text


def test_no_fusion_weight_is_fitted_by_degrees(tmp_path: Path, tiny_bert_dir: Path, caplog: pytest.LogCaptureFixture):
    rows = [(f"{a} {kind}", b) for kind in "yz" for a, b, _ in pairs(STS)]
    paths = [tmp_path / "train.csv", tmp_path / "test.csv"]
    for path, half in zip(paths, (rows[:40], rows[40:]), strict=True):
        path.write_text("".join(f"{a},{b}\n" for a, b in [("anchor", "positive"), *half]))
    dev = write(tmp_path / "dev.csv", [(f"{a} w", b, x) for a, b, x in pairs((0.1, 0.5, 0.9), 12)])
    places = [
        f"data.path={paths[0]}",
        f"data.test_path={paths[1]}",
        f"data.dev_path={dev}",
        f"data.cache_dir={tmp_path}",
    ]
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
    evaluate(load(["data=file", *places, *model, f"output={tmp_path / 'out.json'}"], "evaluate"))
    assert json.loads((tmp_path / "out.json").read_text())["fusion_weight"] is None
    assert "gives no fusion weight" in caplog.text


def test_a_mixture_is_measured_by_the_source_that_is_evaluated(tmp_path: Path, tiny_beir_dir: Path):
    sts = FileConfig(path=write(tmp_path / "rows.csv", pairs(STS)), cache_dir=str(tmp_path))
    beir = BEIRConfig(path=str(tiny_beir_dir), cache_dir=str(tmp_path))
    data = MixtureConfig(sources={"beir": beir, "sts": sts}, evaluate_on="sts").build()
    assert data.splits["test"].degrees
    assert "positive" not in data.available
    assert "levels" in data.available
    assert not MixtureConfig(sources={"beir": beir, "sts": sts}, evaluate_on="beir").build().splits["test"].degrees


def test_the_report_on_a_file_says_what_fits(tmp_path: Path):
    lines = inspect_path(write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9)))).lines()
    assert any(line.startswith("degrees of similarity: the label 0.9 is no integer; eval=similarity") for line in lines)
    [fit] = [line for line in lines if line.startswith("losses that fit: ")]
    assert fit == "losses that fit: angle, bce_soft, cosent, embedding_distillation, similarity_distillation"
    assert not [
        line for line in inspect_path(write(tmp_path / "q.csv", pairs((0, 1)), "label")).lines() if "degrees" in line
    ]


def test_reasoning_is_rewarded_by_relevance_only(tmp_path: Path, tiny_causal_dir: Path):
    pytest.importorskip("trl")
    from recipes.reasoning_run import reason

    path = write(tmp_path / "rows.csv", pairs(RATINGS))
    common = [f"model.name_or_path={tiny_causal_dir}", "data=file", f"data.path={path}", f"output_dir={tmp_path}"]
    with pytest.raises(ValueError, match=r"labels go from 1 to 5 and none is 0, .* relevant: set data.relevant_from=X"):
        reason(load([*common, "logger=none"], "reason"))
