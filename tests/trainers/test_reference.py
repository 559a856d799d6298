"""Reference scores live and precomputed, a teacher and a guide beside the trained model."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from running import make_trainer, run_several, run_until

from data.batch import ListBatch
from engines.distributed import preemption
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from engines.protocol import Engine
from losses.math.share import ALONE
from trainers.record import REFERENCE_FILE

DPO = ["+exp=reranker_preference", "trainer.max_steps=3", "trainer.eval_every=3"]


def train_lines(runs: list[list[str]]) -> list[list[dict[str, float]]]:
    found = run_ranks(run_several, 1, runs)[0]
    return [[line for line in metrics if line["split"] == "train"] for metrics, _ in found]


@pytest.mark.parametrize("model", ["cross_encoder", "cross_encoder_lora"])
def test_dpo_begins_at_log_2_and_precomputed_scores_are_those_of_the_frozen_model(
    model: str, tiny_run: list[str], tiny_reranker_dir: Path
) -> None:
    common = [*DPO, f"model={model}", *tiny_run, f"model.name_or_path={tiny_reranker_dir}", "loss.beta=1"]
    runs = [[*common, f"run_name={name}", f"trainer.reference={name}"] for name in ("frozen", "precomputed")]
    frozen, precomputed = train_lines(runs)
    assert frozen[0]["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)
    assert frozen[-1]["loss"] != pytest.approx(frozen[0]["loss"], abs=1e-4)
    for one, two in zip(frozen, precomputed, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def resumed_after_a_step(options: list[str], *changes: str) -> tuple[Any, list[int]]:
    """The trainer of a run stopped after its first checkpoint, resumed with `changes`, and the batches whose reference
    it scores."""
    run_until([(options, 2)])
    trainer = make_trainer([*options, *changes])
    scored, look = [], trainer.reference._score
    trainer.reference._score = lambda batch, engine: scored.append(batch.number) or look(batch, engine)
    trainer.resume()
    assert trainer.state.step == 1
    trainer.start()
    assert trainer.reference.copy is None
    return trainer, scored


def test_a_resumed_run_reads_the_precomputed_scores(tiny_run: list[str], tiny_reranker_dir: Path) -> None:
    options = [*DPO, *tiny_run, f"model.name_or_path={tiny_reranker_dir}", "trainer.save_every=1"]
    again, scored = resumed_after_a_step(options)
    assert scored == []
    whole = make_trainer([*options, "run_name=whole"])
    whole.start()
    first, second = ({pair: value for pair, (value,) in each.reference.stored.items()} for each in (whole, again))
    assert second == pytest.approx(first)


def test_broken_precomputed_scores_are_made_again(tiny_run: list[str], tiny_reranker_dir: Path, caplog) -> None:
    options = [*DPO, *tiny_run, f"model.name_or_path={tiny_reranker_dir}", "trainer.save_every=1"]
    run_until([(options, 2)])
    trainer = make_trainer(options)
    file = trainer.run.path / REFERENCE_FILE
    file.write_bytes(file.read_bytes()[:100])
    trainer.resume()
    trainer.start()
    assert "reference_scores.npz is broken (" in caplog.text
    whole = make_trainer([*options, "run_name=whole"])
    whole.start()
    first, second = ({pair: value for pair, (value,) in each.reference.stored.items()} for each in (whole, trainer))
    assert 0 < len(second) < len(first), "of the steps to come"
    assert second == pytest.approx({pair: first[pair] for pair in second})


def test_a_resumed_run_that_may_leave_out_more_batches_scores_what_takes_their_places(
    tiny_run: list[str], tiny_reranker_dir: Path
) -> None:
    options = [*DPO, *tiny_run, f"model.name_or_path={tiny_reranker_dir}", "trainer.save_every=1"]
    again, scored = resumed_after_a_step(options, "trainer.on_nonfinite=skip", "trainer.max_nonfinite=2")
    assert scored == [3, 4], "the three batches of the run were scored before"
    assert again.batches.for_step(3, again.state.skipped_batches).number == 2
    again.state.skip_batch(2)
    batch = again.batches.for_step(3, again.state.skipped_batches)
    assert batch.number == 3
    assert again.reference.inputs(batch, again.engine, ALONE)["reference_scores"].isfinite().any()


def preempted_while_scoring(options: list[str]) -> tuple[list[int], str, list[int]]:
    """The batches scored until a signal to the last rank ends it, what is said, and those scored by the run after."""

    def scored(signal_at: int | None) -> list[int]:
        trainer = make_trainer(options)
        look, numbers = trainer.reference._score, trainers.setdefault(signal_at, [])

        def looks(batch: ListBatch, engine: Engine) -> torch.Tensor:
            numbers.append(batch.number)
            if len(numbers) == signal_at and rank() == world_size() - 1:
                signal.raise_signal(signal.SIGTERM)
            return look(batch, engine)

        trainer.reference._score = looks
        trainer.resume()
        trainer.start()
        return numbers

    trainers: dict[int | None, list[int]] = {}
    with preemption.handle_signals():
        preemption.defer_signals()
        with pytest.raises(preemption.Preempted) as caught:
            scored(signal_at=2)
    return trainers[2], str(caught.value), scored(signal_at=None)


def test_a_preempted_reference_is_not_scored_twice(
    tiny_run: list[str], tiny_reranker_dir: Path, tmp_path: Path
) -> None:
    options = [*DPO, *tiny_run, f"model.name_or_path={tiny_reranker_dir}"]
    for first, said, second in run_ranks(preempted_while_scoring, 2, options):
        assert (first, second) == ([0, 1], [2])
        assert "while the reference was scored" in said
    assert [file.name for file in tmp_path.rglob("reference_scores*")] == ["reference_scores.npz"]


def test_dropout_that_was_asked_for_is_refused_beside_a_reference(tiny_run: list[str], tiny_reranker_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"loss DPO, which compares with a reference, runs without dropout, got 0.1"):
        make_trainer([*DPO, *tiny_run, f"model.name_or_path={tiny_reranker_dir}", "model.dropout=0.1"])


def test_a_teacher_that_is_the_student_teaches_nothing(tiny_run: list[str], tiny_reranker_dir: Path) -> None:
    places = [f"model.name_or_path={tiny_reranker_dir}", f"teacher.name_or_path={tiny_reranker_dir}"]
    options = ["+exp=reranker_distill", *tiny_run, *places, "teacher.max_length=48", "model.dropout=0"]
    ((first, *_),) = train_lines([[*options, "trainer.max_steps=1"]])
    assert first["loss"] == pytest.approx(0, abs=1e-6)
    assert first["grad_norm"] == pytest.approx(0, abs=1e-4)


def test_a_guide_masks_negatives(tiny_run: list[str], tiny_bert_dir: Path) -> None:
    guide = ["model@guide=bi_encoder", f"guide.name_or_path={tiny_bert_dir}", "guide.max_length=48"]
    common = ["+exp=embedder_infonce", *tiny_run, "eval.depth=100", "trainer.max_steps=1"]
    runs = [
        [*common, "loss=gist", *guide, f"run_name=m{i}", f"loss.guide_margin={m}"] for i, m in enumerate((2.5, -2.5))
    ]
    masked, unmasked = (lines[0] for lines in train_lines(runs))  # cosines differ by at most 2
    assert masked["loss"] == 0
    assert unmasked["loss"] > 0.1


def test_a_teacher_without_a_head_is_refused(tiny_run: list[str], tiny_bert_dir: Path) -> None:
    teacher = [f"teacher.name_or_path={tiny_bert_dir}", "teacher.max_length=48"]
    with pytest.raises(ValueError, match=r"teacher: .* has no score head: .* train it first"):
        make_trainer(["+exp=reranker_distill", *tiny_run, *teacher])
