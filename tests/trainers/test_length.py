"""How long a training is: epochs as steps, and the end that evaluations on dev make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from running import make_trainer, metrics_of, run_several, run_to_the_end

from data.sampling.mixture import batches_per_epoch
from engines.distributed import preemption
from engines.distributed.testing import run_ranks
from launch.cli.compose import compose, load
from recipes.preparation import prepare
from recipes.training_run import train
from trainers.grpo import GRPOTrainerConfig
from trainers.supervised import SupervisedTrainerConfig

EPOCHS = ["+exp=reranker_contrastive", "trainer.max_epochs=1.5", "trainer.eval_every=4", "trainer.save_every=3"]
# Nothing is learned: no evaluation is better than the first.
STILL = ["+exp=reranker_contrastive", "trainer.max_steps=9", "trainer.eval_every=1", "trainer.learning_rate=0"]
PATIENT = [*STILL, "trainer.early_stopping_patience=3", "trainer.save_every=100"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": None, "max_epochs": 3}, 30),
        ({"max_epochs": 3, "max_steps": 20}, 20),
        ({"max_epochs": 3, "max_steps": 40}, 30),
        ({"max_steps": None, "max_epochs": 0.25}, 3),  # a part of a batch is a batch
        ({"max_steps": None, "max_epochs": 0.3}, 3),  # 0.3 * 10 is a little above 3
        ({"max_steps": 7}, 7),
    ],
)
def test_epochs_are_steps(options: dict[str, Any], steps: int) -> None:
    assert SupervisedTrainerConfig(**options).num_steps(batches_per_epoch=10) == steps


def test_updates_on_the_same_batch_are_no_further_epoch() -> None:
    config = GRPOTrainerConfig(max_steps=None, max_epochs=2, num_iterations=3)
    assert config.num_steps(batches_per_epoch=10) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": None}, r"trainer.max_steps=null: set it, or trainer.max_epochs"),
        ({"max_epochs": 0.0}, r"trainer.max_epochs must be above 0 and finite, or null, got 0.0"),
        ({"early_stopping_patience": 0}, r"trainer.early_stopping_patience must be at least 1 or null, got 0"),
        (
            {"early_stopping_patience": 3},
            r"early_stopping_patience=3 never .* has 3 evaluation\(s\) on dev in 300 steps",
        ),
    ],
)
def test_errors_name_the_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupervisedTrainerConfig(**options)


def limits(overrides: Sequence[str], *path: str) -> tuple[Any, Any]:
    node = compose(overrides)
    for name in path:
        node = node[name]
    return node["trainer"]["max_steps"], node["trainer"]["max_epochs"]


def test_epochs_of_the_command_line_alone_replace_the_steps_of_files() -> None:
    assert limits(["+exp=reranker_contrastive", "trainer.max_epochs=3"]) == (None, 3)
    assert limits(["+exp=reranker_contrastive", "trainer.max_epochs=3", "trainer.max_steps=50"]) == (50, 3)
    assert limits(["+exp=reranker_contrastive", "trainer.max_epochs=null"]) == (300, None)
    staged = ["+exp=reranker_three_stage"]
    assert limits([*staged, "trainer.max_epochs=3"], "stage", "grpo") == (None, 3)
    own = [*staged, "stage.grpo.trainer.max_epochs=2"]
    assert limits(own, "stage", "grpo") == (None, 2)
    assert limits(own, "stage", "preference") == (40, None)
    assert limits([*own, "stage.grpo.trainer.max_steps=5"], "stage", "grpo") == (5, 2)


def test_an_epoch_has_each_query_once_and_the_schedule_follows_it(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer([*EPOCHS, *tiny_run])
    batches = trainer.batches.loader.plan.batches_per_epoch
    assert trainer.max_steps == -(-batches * 3 // 2)
    queries = [example.query_id for batch in trainer.batches.read(range(batches)) for example in batch.examples]
    assert len(queries) == len(set(queries)) == batches * trainer.config.batch_size
    trainer.fit()
    lines = [line for line in metrics_of(trainer) if line["split"] == "train"]
    assert lines[-1]["step"] == trainer.state.step == trainer.max_steps
    assert lines[batches - 1]["epoch"] == 1
    assert trainer.engine.learning_rate() == 0  # it has decayed at the end of the epochs
    epochs = f"{trainer.max_steps / batches:.3g}"
    assert f"{trainer.max_steps} steps, {epochs} epochs of {batches} steps" in capsys.readouterr().err


def test_the_line_says_what_ends_training(tiny_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_to_the_end([*EPOCHS, *tiny_run, "trainer.max_steps=2"])
    assert "trainer.max_steps=2 ends before trainer.max_epochs=1.5" in capsys.readouterr().err


def test_the_batches_are_known_before_the_loader(tiny_run: list[str], tiny_beir_dir: Path, tmp_path: Path) -> None:
    beir = ["_target_: data.formats.beir.BEIRConfig", f"path: {tiny_beir_dir}", f"cache_dir: {tmp_path / 'c'}"]
    rows = "".join(json.dumps({"query": f"red {i}", "positive": f"pear {i}"}) + "\n" for i in range(5))
    (tmp_path / "pairs.jsonl").write_text(rows)
    pairs = [
        "_target_: data.formats.file.FileConfig",
        f"path: {tmp_path / 'pairs.jsonl'}",
        f"cache_dir: {tmp_path / 'c'}",
    ]
    pairs += ["test_fraction: 0.2", "dev_fraction: 0"]
    mixture = ["model=bi_encoder", "loss=info_nce", "eval=retrieval", "data=mixture", "data.evaluate_on=beir"]
    mixture += [f"+data.sources.beir={{{', '.join(beir)}}}", f"+data.sources.pairs={{{', '.join(pairs)}}}"]
    kept = [setting for setting in tiny_run if not setting.startswith(("data", "eval"))]
    for settings in ([*EPOCHS, *tiny_run], [*EPOCHS, *kept, *mixture]):
        trainer = make_trainer(settings)
        plan, data = trainer.batches.loader.plan, load(settings).data.build()
        assert plan.batches_per_epoch == batches_per_epoch(data, trainer.config.batch_size) > 1


def test_training_ends_after_as_many_evaluations_as_the_patience(tiny_run: list[str]) -> None:
    trainer = make_trainer([*tiny_run, *PATIENT])
    trainer.fit()
    assert (trainer.state.step, trainer.stopped_early, trainer.state.best_step) == (3, True, 0)
    assert trainer.checkpoints.latest()[1]["step"] == 3  # saved, though it was not due
    again = make_trainer([*tiny_run, *PATIENT])
    again.fit()
    assert metrics_of(again) == metrics_of(trainer)
    assert (again.state.step, again.stopped_early) == (3, True)
    whole = make_trainer([*tiny_run, *STILL, "run_name=whole"])
    whole.fit()
    rates = {line["step"]: line["learning_rate"] for line in metrics_of(whole) if line["split"] == "train"}
    assert len(rates) == 9
    assert not whole.stopped_early


def test_a_better_evaluation_starts_the_count_anew(tiny_run: list[str]) -> None:
    trainer = make_trainer([*tiny_run, *PATIENT])
    evaluate, values = trainer.evaluator.evaluate, iter([0.5, 0.4, 0.4, 0.6, 0.6, 0.5, 0.6, 0.7])

    def scripted(runner: Any) -> Any:
        result = evaluate(runner)
        result.metrics.mean[trainer.evaluator.config.metric] = next(values)
        return result

    trainer.evaluator.evaluate = scripted
    trainer.fit()
    assert (trainer.state.step, trainer.state.best_step, trainer.stopped_early) == (6, 3, True)


@pytest.mark.parametrize("where", ["before", "within"])
def test_the_count_survives_an_interruption(where: str, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after the second evaluation, and a preemption in the third, which the resumed run makes first."""
    settings = [*tiny_run, *PATIENT, "trainer.save_every=1"]
    whole = make_trainer([*settings, "run_name=whole"])
    whole.fit()
    trainer = make_trainer(settings)
    evaluate = trainer.evaluator.evaluate

    def interrupted(runner: Any) -> Any:
        if trainer.state.step == 3:
            raise KeyboardInterrupt if where == "before" else preemption.Preempted("in a test")
        return evaluate(runner)

    trainer.evaluator.evaluate = interrupted
    with pytest.raises((KeyboardInterrupt, preemption.Preempted)):
        trainer.fit()
    again = make_trainer(settings)
    again.fit()
    assert metrics_of(again) == metrics_of(whole)
    assert (again.state.step, again.stopped_early) == (3, True)


def test_other_limits_are_refused_and_a_checkpoint_at_the_end_leaves_nothing(tiny_run: list[str]) -> None:
    make_trainer([*EPOCHS, *tiny_run, "run_name=first"]).fit()
    with pytest.raises(ValueError, match=r"trainer.max_epochs 1.5 -> 2.0"):
        make_trainer([*EPOCHS, *tiny_run, "run_name=first", "trainer.max_epochs=2"])
    folder = next(Path(each.partition("=")[2]) for each in tiny_run if each.startswith("output_dir"))
    resume = [f"resume={folder / 'first' / 'checkpoints' / 'latest'}", "run_name=second"]
    with pytest.raises(ValueError, match=r"the checkpoint is at step \d+, and trainer.max_epochs gives \d+ steps"):
        make_trainer([*EPOCHS, *tiny_run, *resume])
    longer = make_trainer([*EPOCHS, *tiny_run, *resume, "trainer.max_epochs=1.8"])
    longer.fit()
    assert longer.state.step == longer.max_steps


def test_a_run_from_a_checkpoint_counts_anew(tiny_run: list[str]) -> None:
    make_trainer([*tiny_run, *PATIENT, "run_name=first"]).fit()
    folder = next(Path(each.partition("=")[2]) for each in tiny_run if each.startswith("output_dir"))
    trainer = make_trainer([*tiny_run, *PATIENT, f"resume={folder / 'first' / 'checkpoints' / 'latest'}", "run_name=b"])
    trainer.fit()
    assert (trainer.state.step, trainer.stopped_early) == (6, True)


def test_without_dev_it_is_refused_before_a_model_is_built(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"query": f"red {i}", "positive": f"pear {i}"}) + "\n" for i in range(20))
    (tmp_path / "pairs.jsonl").write_text(rows)
    settings = ["+exp=embedder_infonce", "data=file", f"data.path={tmp_path / 'pairs.jsonl'}", "data.dev_fraction=0"]
    settings += ["data.test_fraction=0.2", f"data.cache_dir={tmp_path}", *PATIENT[1:], "trainer.batch_size=4"]
    with pytest.raises(ValueError, match=r"early_stopping_patience=3 counts .* no dev split: .*data.dev_fraction=0.1"):
        prepare(load(settings))


def test_epochs_without_effect_of_other_options_are_refused_too(tiny_run: list[str]) -> None:
    short = [*EPOCHS[:1], *tiny_run, "trainer.max_epochs=0.5"]
    with pytest.raises(ValueError, match=r"early_stopping_patience=2 never ends training early"):
        prepare(load([*short, "trainer.early_stopping_patience=2"]))
    with pytest.raises(ValueError, match=r"refresh_every=500: nothing is refreshed in \d+ steps of training"):
        prepare(load([*short, "trainer.refresh_every=500", "data.lists.hard_depth=4"]))


def test_stages_of_epochs_that_end_early_are_joined_by_their_own_steps(tiny_run: list[str]) -> None:
    staged = ["+exp=reranker_three_stage", *tiny_run, "stages=[grpo,contrastive]", "trainer.learning_rate=0"]
    staged += ["trainer.eval_every=1", "stage.grpo.trainer.max_steps=4", "stage.grpo.trainer.early_stopping_patience=2"]
    staged += ["stage.contrastive.trainer.max_epochs=0.5"]
    train(load(staged))
    folder = next(Path(each.partition("=")[2]) for each in tiny_run if each.startswith("output_dir"))
    run = folder / "reranker_three_stage"
    summary = json.loads((run / "summary.json").read_text())
    first, second = summary["stages"]
    assert (first["steps"], first["max_steps"], first["stopped_early"]) == (2, 4, True)
    assert (second["steps"] == second["max_steps"], second["stopped_early"]) == (True, False)
    assert second["epochs"] == pytest.approx(0.5, abs=0.1)
    assert (summary["steps"], summary["stopped_early"]) == (2 + second["steps"], True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(1, summary["steps"] + 1))
    report = (run / "report.html").read_text()
    assert "note: training of stage grpo ended early, at step 2 of 4" in report
    assert "stage grpo: advice: " in report


def on_two_ranks(folder: Path, overrides: list[str]) -> Any:
    runs = [
        [*overrides, *settings, f"engine={engine}", f"run_name={engine}-{name}"]
        for engine in ("torch", "zero2")
        for name, settings in (("epochs", EPOCHS), ("patient", PATIENT))
    ]
    return [lines for lines, _ in run_several(runs)]


def test_two_ranks_count_and_end_alike(tiny_overrides: Callable[[Path], list[str]], tmp_path: Path) -> None:
    alone = [
        run_to_the_end([*tiny_overrides(tmp_path), *settings, f"run_name=alone-{index}"])[0]
        for index, settings in enumerate((EPOCHS, PATIENT))
    ]
    for rank in run_ranks(on_two_ranks, 2, tmp_path, tiny_overrides(tmp_path), timeout_s=280):
        for found, expected in zip(rank, [*alone, *alone], strict=True):
            assert [line["step"] for line in found] == [line["step"] for line in expected]
            assert [line.get("epoch") for line in found] == [line.get("epoch") for line in expected]
            assert found[-1].get("nDCG@10") == pytest.approx(expected[-1].get("nDCG@10"), abs=1e-6)
