"""The loop: chunks and kept graphs do not matter, runs repeat, and an interrupted one goes on where it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from running import make_trainer, metrics_of, run_to_the_end

from losses.contracts import LossInputs
from trainers.step_statistics import checksum

SUPERVISED = ["+exp=reranker_contrastive", "trainer.max_steps=6", "trainer.eval_every=3", "trainer.save_every=2"]
GRPO = ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.beta=0.1", *SUPERVISED[1:]]


def assert_equal_runs(first: Any, second: Any, tolerance: float = 0.0) -> None:
    (metrics, weights), (other_metrics, other_weights) = first, second
    assert len(metrics) == len(other_metrics)
    for line, other in zip(metrics, other_metrics, strict=True):
        assert line.keys() == other.keys()
        for name in {"loss", "grad_norm", "score_checksum", "reward_mean"} & line.keys():
            assert other[name] == pytest.approx(line[name], rel=tolerance, abs=tolerance), name
    for name, value in weights.items():
        torch.testing.assert_close(other_weights[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("experiment", [SUPERVISED, GRPO], ids=["supervised", "grpo"])
def test_the_same_seed_gives_identical_metrics(experiment: list[str], tiny_run: list[str]) -> None:
    first = run_to_the_end([*experiment, *tiny_run, "run_name=first"])
    second = run_to_the_end([*experiment, *tiny_run, "run_name=second"])
    assert first[0] == second[0]
    other = run_to_the_end([*experiment, *tiny_run, "run_name=other", "seed=7"])
    assert first[0] != other[0]


@pytest.mark.parametrize(("loss", "trained"), [("softmax_cross_entropy", False), ("bce", True)])
def test_the_level_of_the_scores_is_trained_where_the_loss_sees_it(
    loss: str, trained: bool, tiny_run: list[str]
) -> None:
    trainer = make_trainer([*SUPERVISED, *tiny_run, f"loss={loss}"])
    assert trainer.engine.model.backbone.classifier.bias.requires_grad == trained


def test_chunked_equals_whole_without_dropout(tiny_run: list[str]) -> None:
    plain = [*SUPERVISED, *tiny_run, "model.dropout=0.0"]
    chunked = run_to_the_end([*plain, "run_name=chunked"])
    whole = run_to_the_end([*plain, "run_name=whole", "trainer.token_budget=100000"])
    assert whole[0][1]["num_chunks"] == 1 < chunked[0][1]["num_chunks"]
    assert_equal_runs(chunked, whole, tolerance=1e-5)


def test_recomputed_chunks_equal_kept_graphs_with_dropout(tiny_run: list[str]) -> None:
    recomputed = run_to_the_end([*SUPERVISED, *tiny_run, "run_name=recomputed", "trainer.kept_chunks=0"])
    kept = run_to_the_end([*SUPERVISED, *tiny_run, "run_name=kept", "trainer.kept_chunks=100"])
    assert_equal_runs(recomputed, kept, tolerance=1e-5)


@pytest.mark.parametrize("experiment", [SUPERVISED, GRPO], ids=["supervised", "grpo"])
@pytest.mark.parametrize("interrupted_at", [1, 4, 5])
def test_an_interrupted_run_continues_as_if_it_had_not_been(
    experiment: list[str], interrupted_at: int, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_to_the_end([*experiment, *tiny_run, "run_name=whole"])
    trainer = make_trainer([*experiment, *tiny_run, "run_name=broken"])
    log = trainer.log

    def log_then_stop(statistics: dict[str, Any]) -> None:
        log(statistics)
        if trainer.state.step == interrupted_at:
            raise KeyboardInterrupt

    trainer.log = log_then_stop
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    again = make_trainer([*experiment, *tiny_run, "run_name=broken"])
    assert "resuming" in capsys.readouterr().err
    again.fit()
    weights = {name: value.detach().clone() for name, value in again.engine.model.state_dict().items()}
    assert metrics_of(again) == whole[0]
    assert_equal_runs(whole, (metrics_of(again), weights))


@pytest.mark.parametrize("pointer", ["latest", "best"])
def test_a_kill_before_a_pointer_is_written_is_repaired(
    pointer: str, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*SUPERVISED, *tiny_run, "trainer.eval_every=1", "trainer.learning_rate=0.2"]
    trainer = make_trainer(settings)
    point = trainer.checkpoints._write_pointer

    def kill_after_step_0(name: str, target: str) -> None:
        if name == pointer and trainer.state.step > 0 and trainer.state.best_step == trainer.state.step:
            raise KeyboardInterrupt
        point(name, target)

    monkeypatch.setattr(trainer.checkpoints, "_write_pointer", kill_after_step_0)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    best_step = trainer.state.step
    again = make_trainer(settings)
    again.resume()
    assert again.state.best_step == again.state.step == best_step > 0
    assert again.checkpoints.best() == again.run.checkpoints / f"step-{best_step:06d}"
    assert (again.run.checkpoints / "latest").read_text().strip() == f"step-{best_step:06d}"


def test_a_best_checkpoint_that_is_gone_is_not_claimed(tiny_run: list[str]) -> None:
    settings = [*SUPERVISED, *tiny_run, "trainer.learning_rate=0"]
    trainer = make_trainer(settings)
    trainer.fit()
    assert trainer.state.best_step == 0
    shutil.rmtree(trainer.run.checkpoints / "step-000000")
    again = make_trainer(settings)
    again.resume()
    assert again.state.step == 6
    assert again.state.best_step is None
    assert again.state.best_metric is None


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("file", ["rank-00000.safetensors", "engine.json", "trainer_state.json"])
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    file: str,
    harm: Callable[[Path], None],
    tiny_run: list[str],
    whole_run: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = [*SUPERVISED, *tiny_run]
    make_trainer(settings).fit()
    trainer = make_trainer(settings)
    harm(trainer.run.checkpoints / "step-000006" / file)
    with caplog.at_level(logging.WARNING):
        again = make_trainer(settings)
    assert f"step-000006 is broken: {file}" in caplog.text
    assert max(line["step"] for line in metrics_of(again)) == 4
    again.fit()
    weights = {name: value.detach().clone() for name, value in again.engine.model.state_dict().items()}
    assert metrics_of(again) == whole_run[0]
    assert_equal_runs(whole_run, (metrics_of(again), weights))


@pytest.fixture(scope="module")
def whole_run(
    tiny_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The uninterrupted supervised run."""
    return run_to_the_end([*SUPERVISED, *tiny_overrides(tmp_path_factory.mktemp("whole"))])


def test_saving_in_the_background_changes_nothing(tiny_run: list[str], whole_run: Any) -> None:
    settings = [*SUPERVISED, *tiny_run, "trainer.async_save=true", "trainer.optimizer=adamw", "trainer.save_every=1"]
    plain = run_to_the_end([*settings, "trainer.async_save=false", "run_name=plain"])
    trainer = make_trainer(settings)
    step = trainer.train_step

    def train_then_stop(batch: Any) -> Any:
        if trainer.state.step == 4:
            raise KeyboardInterrupt
        return step(batch)

    trainer.train_step = train_then_stop
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    trainer.checkpoints.wait()
    assert_equal_runs(plain, run_to_the_end(settings))


def test_best_checkpoint_is_the_best_on_dev(tiny_run: list[str]) -> None:
    trainer = make_trainer([*SUPERVISED, *tiny_run, "trainer.eval_every=1"])
    trainer.fit()
    dev = {line["step"]: line["nDCG@10"] for line in metrics_of(trainer) if line["split"] == "dev"}
    assert trainer.state.best_metric == max(dev.values())
    assert trainer.checkpoints.best() == trainer.run.checkpoints / f"step-{trainer.state.best_step:06d}"
    assert dev[trainer.state.best_step] == trainer.state.best_metric


def test_a_loss_that_is_not_finite_stops_with_the_step(tiny_run: list[str]) -> None:
    trainer = make_trainer([*SUPERVISED, *tiny_run])
    trainer.objective = lambda lists, batch: (lists.scores.sum() * float("nan"), {})
    with pytest.raises(FloatingPointError, match="step 1: the loss or its gradient is not finite"):
        trainer.fit()


def test_training_moves_every_weight_but_not_frozen_ones(tiny_run: list[str]) -> None:
    trainer = make_trainer(["+exp=reranker_contrastive", "model=cross_encoder_lora", "trainer.max_steps=2", *tiny_run])
    before = {name: value.detach().clone() for name, value in trainer.engine.model.named_parameters()}
    trainer.fit()
    for name, value in trainer.engine.model.named_parameters():
        moved = not torch.equal(value, before[name])
        expected = value.requires_grad and "lora_A" not in name  # A's first gradient is 0: B starts at zero
        assert moved == expected or "lora_A" in name, name


def test_checksum_weighs_each_row() -> None:
    scores, mask = torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), torch.tensor([[True, True], [True, False]])
    lists = LossInputs(labels=scores, mask=mask, scores=scores)
    assert checksum(lists) == pytest.approx(0.5403023 - 2 * 0.4161468 - 3 * 0.9899925)
    flipped = replace(lists, mask=mask.flip(1), scores=scores.flip(1))
    assert checksum(flipped) != pytest.approx(checksum(lists))


def test_wrong_loss_for_the_trainer_is_refused(tiny_run: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer=grpo needs a policy loss.*trainer=ranking"):
        make_trainer(["+exp=reranker_grpo", "loss=softmax_cross_entropy", *tiny_run])
    with pytest.raises(ValueError, match=r"trainer=ranking needs a loss such as loss=softmax_cross_entropy"):
        make_trainer(["+exp=reranker_contrastive", "loss=plackett_luce_grpo", *tiny_run])
    assert not (tmp_path / "outputs").exists()


def test_from_another_runs_checkpoint_the_mark_is_measured_anew(tiny_run, tmp_path):
    common = ["+exp=reranker_contrastive", *tiny_run, "trainer.max_steps=2", "trainer.eval_every=1"]
    first = make_trainer([*common, "run_name=first"])
    first.fit()
    path = first.checkpoints.best()
    trainer = make_trainer([*common, "run_name=second", f"resume={path}", "eval.metric=MRR@10", "trainer.max_steps=3"])
    trainer.saved_step, trainer.best_result = 9, first.best_result  # as if it had gone on and gone back
    trainer.resume()
    assert (trainer.saved_step, trainer.best_result) == (None, None)
    state = trainer.state
    assert (state.step, state.best_metric, state.best_step) == (first.state.best_step, None, None)
    trainer.start()
    measured = [line for line in metrics_of(trainer) if line["split"] == "dev" and line["step"] == state.step]
    assert [line["MRR@10"] for line in measured] == [state.best_metric]
    assert trainer.checkpoints.best().name == path.name
    assert not state.pending_evaluation
