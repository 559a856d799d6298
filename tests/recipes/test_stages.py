"""Runs with stages: each from the last one's best, killed and resumed anywhere, left out, refused, added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.formats.trec import read_trec_run
from engines.distributed.testing import run_ranks
from engines.precision import MixedPrecision
from evaluation.reranking_evaluator import RerankingEvaluator
from launch.cli.compose import load
from models.cross_encoder import CrossEncoder
from models.export.folder import card_on_hub
from recipes.build import test_evaluator as build_test_evaluator
from recipes.stage_sequence import exported_step
from recipes.stages import stage_seed, stages_of, training_data
from recipes.training_run import train
from runs.stored_run import StoredRun

THREE = ["+exp=reranker_three_stage", "trainer.max_steps=2", "trainer.eval_every=2", "trainer.learning_rate=0.2"]
TIMES = ("seconds", "rows_per_s", "tokens_per_s", "peak_memory_bytes")


@pytest.fixture
def staged(tiny_run: list[str], tiny_reranker_dir: Path) -> list[str]:
    """Three stages of two steps from a reranker that has its head already."""
    return [*THREE, *tiny_run, *THREE[1:], f"model.name_or_path={tiny_reranker_dir}"]


def lines_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def summary_of(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    stages = [{name: value for name, value in stage.items() if name not in TIMES} for stage in summary["stages"]]
    return {name: value for name, value in summary.items() if name not in TIMES} | {"stages": stages}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_equal_runs(one: Path, other: Path) -> None:
    assert lines_of(one) == lines_of(other)
    assert StoredRun.read(one).queries() == StoredRun.read(other).queries() != {}
    assert summary_of(one) == summary_of(other)
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=0, atol=0)


def test_a_run_of_three_stages_is_one_run_measured_once(
    staged: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, tokenised = [], []
    evaluate, tokenize = RerankingEvaluator.evaluate, RerankingEvaluator._tokenize_pairs
    monkeypatch.setattr(
        RerankingEvaluator, "evaluate", lambda self, *inputs: measured.append(self) or evaluate(self, *inputs)
    )
    monkeypatch.setattr(
        RerankingEvaluator, "_tokenize_pairs", lambda self, pairs: tokenised.append(self) or tokenize(self, pairs)
    )
    best_dev = train(load(staged))
    run = tmp_path / "outputs" / "reranker_three_stage"
    summary = summary_of(run)
    lines = lines_of(run)
    names = ["grpo", "contrastive", "preference"]
    assert [stage["name"] for stage in summary["stages"]] == names
    assert summary["best_dev"] == best_dev == summary["stages"][-1]["best_dev"]
    assert summary["stages"][-1]["metric"] == summary["after"]
    assert summary["steps"] == 6
    after = [line for line in lines if line.get("name") == "after"]
    assert [(line["stage"], line["step"], line["nDCG@10"]) for line in after] == [
        (stage["name"], 2 * number, stage["metric"]) for number, stage in enumerate(summary["stages"], start=1)
    ]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["split"] == "dev"] == [0, 2, 2, 4, 4, 6]
    assert [line["step"] for line in lines if line.get("name") == "before"] == [0]
    assert len(measured) == 4 + 4  # test: before, and after each stage; dev: the start, and the end of each stage
    assert len(tokenised) == 2

    starts = [dev for dev in lines if dev["split"] == "dev" and dev["step"] in (2, 4)][1::2]
    assert [line["nDCG@10"] for line in starts] == [stage["best_dev"] for stage in summary["stages"][:-1]]
    assert read_trec_run(run / "runs" / "after.run") == read_trec_run(
        run / "stages" / "3-preference" / "runs" / "after.run"
    )
    first, last, joined = (
        StoredRun.read(folder).queries() for folder in (run / "stages" / "1-grpo", run / "stages" / "3-preference", run)
    )
    for query, line in joined.items():
        assert line["documents"] == {**last[query]["documents"], "before": first[query]["documents"]["before"]}
        assert line["values"] == {**last[query]["values"], "before": first[query]["values"]["before"]}
    assert (run / "checkpoints" / "latest").read_text() == "step-000002\n"
    assert not CrossEncoder.load(run / "model").fresh_head
    page = (run / "report.html").read_text()
    assert "<h2>Stages</h2>" in page
    assert "after contrastive" in page
    card = (run / "model" / "README.md").read_text()
    assert "# reranker_three_stage\n" in card
    assert "- stage 3, preference: 2 steps; " in card
    assert f'CrossEncoder("{run / "model"}")' in card
    assert str(tmp_path.parent) not in card_on_hub(card, run / "model", "me/model")
    assert "# 3-preference\n" in (run / "stages" / "3-preference" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("best", "expected"), [((2, 1), 5), ((2, 0), 2), ((3, 0, 0), 3), ((1, 2, 0), 6), ((0, 0), 0), ((None, None), None)]
)
def test_the_exported_step_is_of_the_last_stage_that_moved(best: tuple[int | None, ...], expected: int | None) -> None:
    assert exported_step([{"steps": 4, "best_step": step} for step in best]) == expected


def test_stages_are_what_their_runs_would_be_one_after_the_other(staged: list[str], tmp_path: Path) -> None:
    train(load([*staged, "stages=[grpo,contrastive]"]))
    run = tmp_path / "outputs" / "reranker_three_stage"
    options = [option for option in staged if not option.startswith("+exp")]
    for number, name in enumerate(("grpo", "contrastive"), start=1):
        train(load([f"+exp=reranker_{name}", *options, f"seed={stage_seed(42, name)}", f"run_name={name}"]))
        alone = tmp_path / "outputs" / name
        folder = run / "stages" / f"{number}-{name}"
        assert lines_of(alone) == lines_of(folder)
        torch.testing.assert_close(weights_of(alone), weights_of(folder), rtol=0, atol=0)
        options.append(f"model.name_or_path={alone / 'model'}")
    torch.testing.assert_close(weights_of(run), weights_of(alone), rtol=0, atol=0)
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["hidden_dropout_prob"] == 0.1, "GRPO ran without dropout, the stage after it has its own"


def stop_inside(monkeypatch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    from trainers.trainer import Trainer

    log = Trainer.log

    def log_then_stop(self: Trainer, statistics: dict[str, Any]) -> None:
        log(self, statistics)
        if self.run.name.endswith(stage) and self.state.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "log", log_then_stop)


def stop_between(monkeypatch: pytest.MonkeyPatch, place: str, call: int) -> None:
    """At the `call`-th call (from 1) of the function at `place`."""
    calls = []

    def count_then_stop(*_: Any, **__: Any) -> None:
        calls.append(place)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*_, **__)

    module, _, name = place.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(place, count_then_stop)


STOPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "in the first step": lambda patch: stop_inside(patch, "grpo", 1),
    "inside the second stage": lambda patch: stop_inside(patch, "contrastive", 1),
    "before the end of a stage is known": lambda patch: stop_between(patch, "recipes.finish.write_report", 1),
    "between two stages": lambda patch: stop_between(patch, "recipes.stage_sequence.link_checkpoints", 2),
    "before the summary": lambda patch: stop_between(patch, "recipes.stage_sequence.write_report", 1),
}


@pytest.fixture(scope="module")
def whole(
    tiny_overrides: Callable[[Path], list[str]], tiny_reranker_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(load(two_stages([*THREE, *tiny_overrides(folder), *THREE[1:], f"model.name_or_path={tiny_reranker_dir}"])))
    return folder / "outputs" / "reranker_three_stage"


def two_stages(options: list[str]) -> list[str]:
    return [*options, "stages=[grpo,contrastive]", "trainer.save_every=1"]


@pytest.mark.parametrize("place", STOPS)
def test_the_same_command_resumes_to_the_same_result(
    place: str, staged: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        STOPS[place](patch)
        with pytest.raises(KeyboardInterrupt):
            train(load(two_stages(staged)))
    run = tmp_path / "outputs" / "reranker_three_stage"
    assert not (run / "summary.json").exists()
    train(load(two_stages(staged)))
    assert_equal_runs(run, whole)


def test_settings_of_stages_to_come_may_change_and_of_started_ones_are_refused(
    staged: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_inside(patch, "contrastive", 2)
        with pytest.raises(KeyboardInterrupt):
            train(load([*staged, "trainer.save_every=1"]))
    run = tmp_path / "outputs" / "reranker_three_stage"
    for override, named in (
        ("stage.grpo.trainer.weight_decay=1", "stage.grpo.trainer.weight_decay 0.01 -> 1.0"),
        ("stage.contrastive.loss.temperature=2", "stage.contrastive.loss.temperature 1.0 -> 2.0"),
        ("seed=7", "seed 42 -> 7"),
        ("stages=[grpo,preference]", "stages ['grpo', 'contrastive'] -> ['grpo', 'preference']"),
    ):
        with pytest.raises(ValueError, match="started with other settings: ") as error:
            train(load([*staged, override]))
        assert named in str(error.value)
        assert "remove the folders below stages/ that are to be trained again" in str(error.value)

    kept = (run / "stages" / "1-grpo" / "summary.json").stat().st_mtime_ns
    shutil.move(run / "stages" / "1-grpo", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"2-contrastive was started from the model of stage 1, which is gone"):
        train(load(staged))
    shutil.move(tmp_path / "elsewhere", run / "stages" / "1-grpo")
    shutil.rmtree(run / "stages" / "2-contrastive")
    train(load([*staged, "stages=[grpo,preference]", "stage.preference.loss.beta=1"]))
    assert [folder.name for folder in sorted((run / "stages").glob("*-*")) if folder.is_dir()] == [
        "1-grpo",
        "2-preference",
    ]
    assert (run / "stages" / "1-grpo" / "summary.json").stat().st_mtime_ns == kept

    train(load([*staged, "stages=[grpo,preference,contrastive]", "stage.preference.loss.beta=1"]))  # one is added
    assert [stage["name"] for stage in summary_of(run)["stages"]] == ["grpo", "preference", "contrastive"]
    capsys.readouterr()
    train(load([*staged, "stages=[grpo,preference,contrastive]", "stage.preference.loss.beta=1"]))
    assert "is finished (6 steps)" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"stages \['grpo', 'preference', 'contrastive'\] -> \['grpo'\]"):
        train(load([*staged, "stages=[grpo]", "stage.preference.loss.beta=1"]))
    with pytest.raises(ValueError, match=r"a run with stages cannot start from a checkpoint"):
        train(load([*staged, f"resume={run / 'checkpoints' / 'best'}", "run_name=other"]))


def test_a_stage_that_never_beats_its_start_passes_it_on(
    staged: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load([*staged, "stages=[contrastive,preference]", "stage.preference.trainer.learning_rate=0"]))
    run = tmp_path / "outputs" / "reranker_three_stage"
    first, second = (run / "stages" / name for name in ("1-contrastive", "2-preference"))
    torch.testing.assert_close(weights_of(second), weights_of(first), rtol=0, atol=0)
    assert summary_of(run)["stages"][1]["best_step"] == 0
    note = "note: in stage preference no checkpoint beat its start on dev, so it passes on its starting model"
    assert note in capsys.readouterr().out
    assert note in (run / "report.html").read_text()


def test_a_stage_has_lists_and_data_of_its_own_without_what_is_held_out(
    tiny_run: list[str], tiny_beir_dir: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_beir_dir, tmp_path / "other")
    dev = {line.split("\t")[0] for line in (other / "qrels" / "dev.tsv").read_text().splitlines()[1:]}
    train_file = other / "qrels" / "train.tsv"
    train_file.write_text(train_file.read_text() + "".join(f"{query}\td0\t1\n" for query in sorted(dev)))
    (other / "qrels" / "dev.tsv").unlink()
    own = ["data@stage.preference.data=beir", f"stage.preference.data.path={other}"]
    own += ["stage.preference.data.dev_fraction=0", f"stage.preference.data.cache_dir={tmp_path / 'cache'}"]
    settings = load(["+exp=reranker_three_stage", *tiny_run, "data/lists@stage.grpo.lists=listed", *own])
    stages = stages_of(settings)
    collection = settings.data.build()
    grpo, contrastive, preference = (training_data(stage, collection) for stage in stages)
    assert (grpo.lists.hard_depth, contrastive.lists.hard_depth) == (1000, 30)
    assert grpo.documents is collection.documents
    assert set(preference.split("train").queries) == set(collection.split("train").queries)
    assert stages[2].settings.data.path == str(other)
    assert len({stage.settings.seed for stage in stages}) == 3


def test_every_source_of_a_mixture_gets_the_lists_of_a_stage(tiny_beir_dir: Path, tmp_path: Path) -> None:
    sources = ["+data@data.sources.a=beir", f"data.sources.a.path={tiny_beir_dir}"]
    sources += [f"data.sources.a.cache_dir={tmp_path}"]
    settings = load(["+exp=reranker_three_stage", "data=mixture", *sources])
    collection = settings.data.build()
    grpo, contrastive, _ = stages_of(settings)
    assert (
        grpo.settings.data.sources["a"].lists.random_fraction,
        contrastive.settings.data.sources["a"].lists.random_fraction,
    ) == (
        0.4,
        0.0,
    )
    drawn = training_data(contrastive, collection)
    assert drawn.sources["a"].lists == contrastive.settings.data.sources["a"].lists != collection.sources["a"].lists


def test_a_language_model_goes_through_the_stages_on_adapters(
    tiny_run: list[str], tiny_models: ModuleType, tmp_path: Path
) -> None:
    causal = tiny_models.write_tiny_causal(tmp_path / "causal", architecture="qwen3")
    options = [*THREE[1:], "trainer.optimizer=adamw", "trainer.learning_rate=0.01", "trainer.token_budget=1024"]
    model = ["model=llm_reranker_qwen3_lora", f"model.name_or_path={causal}", "model.max_length=192"]
    command = ["+exp=llm_reranker_three_stage_lora", *tiny_run, *model, *options]
    train(load(command))
    run = tmp_path / "outputs" / "llm_reranker_three_stage_lora"
    assert [stage["name"] for stage in summary_of(run)["stages"]] == ["grpo", "contrastive", "preference"]
    first = next(line for line in lines_of(run) if line["stage"] == "preference" and line["split"] == "train")
    assert first["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5), "its reference is its start"

    settings = load([*command, f"model.name_or_path={run / 'stages' / '1-grpo' / 'model'}"])
    loaded, collection = settings.model.build(settings.seed), settings.data.build()
    evaluator = build_test_evaluator(settings, collection, loaded)
    scores = evaluator.evaluate(MixedPrecision(loaded, bf16=False)).run
    known = read_trec_run(run / "stages" / "2-contrastive" / "runs" / "before.run")
    for query, documents in known.items():
        assert scores[query] == pytest.approx(documents, abs=1e-4), "a stage starts from what the one before has become"


def test_the_adapter_of_a_single_stage_is_exported_alone(staged: list[str], tmp_path: Path) -> None:
    train(load([*staged, "model=cross_encoder_lora", "stages=[contrastive]", "adapter_only=true"]))
    files = {file.name for file in (tmp_path / "outputs" / "reranker_three_stage" / "model").iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files


def train_here(overrides: list[str]) -> float | None:
    return train(load(overrides))


def train_adapters(ranks: int, options: list[str], folder: Path) -> Path:
    """A contrastive and a preference stage on adapters, by that number of ranks."""
    stages = ["stages=[contrastive,preference]", "model=cross_encoder_lora"]
    overrides = [THREE[0], *stages, *options, *THREE[1:], "trainer.learning_rate=0.5"]
    found = run_ranks(train_here, ranks, overrides, timeout_s=600)
    run = folder / "outputs" / "reranker_three_stage"
    assert found == [summary_of(run)["best_dev"]] * ranks
    return run


@pytest.fixture(scope="module")
def adapters(
    tiny_overrides: Callable[[Path], list[str]], tiny_reranker_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    return train_adapters(1, [*tiny_overrides(folder), f"model.name_or_path={tiny_reranker_dir}"], folder)


@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_two_ranks_train_what_one_does_on_adapters(
    engine: str, adapters: Path, tiny_run: list[str], tiny_reranker_dir: Path, tmp_path: Path
) -> None:
    """Under LoRA a stage merges the adapters of the one before, so that its reference is its own start."""
    options = [*tiny_run, f"model.name_or_path={tiny_reranker_dir}", f"engine={engine}"]
    one, two = adapters, train_adapters(2, options, tmp_path)
    for line, other in zip(lines_of(one), lines_of(two), strict=True):
        assert (line["step"], line["split"], line["stage"]) == (other["step"], other["split"], other["stage"])
        for name in {"loss", "nDCG@10", "score_checksum"} & line.keys():
            assert other[name] == pytest.approx(line[name], abs=1e-4), name
    first = next(line for line in lines_of(two) if line["stage"] == "preference" and line["split"] == "train")
    assert first["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5)
    torch.testing.assert_close(weights_of(one), weights_of(two), rtol=1e-4, atol=1e-5)
