"""Reference scores live and precomputed, a teacher and a guide beside the trained model."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from running import make_trainer, run_several, run_until

from data.batch import ListBatch
from engines.distributed import preemption
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from engines.distributed.traffic import start_counting, traffic_statistics
from losses.math.share import ALONE
from trainers import loss_inputs
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


SIZES = (1, 3, 5)  # lists of a step: fewer than ranks, and not divided by their number


def scores_of_shares(runs: list[list[str]]) -> list[list[torch.Tensor]]:
    """For steps of several sizes: the reference's scores of all lists, put together from what each rank has for its
    own; at last those of the largest step, precomputed."""
    found = []
    for options in runs:
        trainer = make_trainer(options)
        examples = trainer.batches.for_step(1).examples
        steps = [ListBatch(number, examples[:size]) for number, size in enumerate((*SIZES, max(SIZES)))]
        of_run = [scores_of_own(trainer, step) for step in steps[:-1]]
        last, share = steps[-1], trainer.sharing.of(steps[-1])
        numbers = range(last.number, last.number + 1)
        trainer.reference.precompute(numbers, lambda _, last=last: iter([last]), trainer.run.path, trainer.engine)
        with patch.object(loss_inputs, "represent_distinct", side_effect=AssertionError("they are known")):
            own = trainer.reference.inputs(last, trainer.engine, share)
        found.append([*of_run, share.gather(own["reference_scores"])])
    return found


def scores_of_own(trainer: Any, step: ListBatch) -> torch.Tensor:
    """The reference's scores of all lists of a step. This rank gets the representations of its own lists alone."""
    run, got = loss_inputs.represent_distinct, []

    def represent(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        got.append(run(*arguments, **options))
        return got[-1]

    share = trainer.sharing.of(step)
    start_counting()
    with patch.object(loss_inputs, "represent_distinct", represent):
        own = trainer.reference.inputs(step, trainer.engine, share)["reference_scores"]
    (representations,) = got
    rows = sum(step.sequences_per_list[rank() :: world_size()])
    assert {len(value) for value in representations.values()} == {rows}
    received = traffic_statistics().get("traffic/representations_received_bytes", 0)
    assert received <= sum(value.nbytes for value in representations.values())
    assert len(own) == -(-len(step.examples) // world_size())
    return share.gather(own)


def test_each_rank_scores_its_own_lists(
    tiny_overrides: Callable[[Path], list[str]], tiny_reranker_dir: Path, tmp_path: Path
) -> None:
    def runs(ranks: int) -> list[list[str]]:
        common = [*tiny_overrides(tmp_path / str(ranks)), "trainer.batch_size=5", "trainer.reference=frozen"]
        embedder = ["+exp=embedder_grpo", "eval=reranking", "loss.beta=0.1", "run_name=embedder"]
        reranker = [*DPO, f"model.name_or_path={tiny_reranker_dir}", "run_name=reranker"]
        return [[*common, *embedder], [*reranker[:1], *common, *reranker[1:]]]

    alone = scores_of_shares(runs(1))
    for of_run in alone:
        assert [len(scores) for scores in of_run] == [*SIZES, max(SIZES)]
        torch.testing.assert_close(of_run[-1], of_run[-2], rtol=0, atol=0)
    for ranks in (2, 4):
        for found in run_ranks(scores_of_shares, ranks, runs(ranks)):
            torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-6)


def resumed_after_a_step(options: list[str], *changes: str) -> tuple[Any, list[int]]:
    """The trainer of a run stopped after its first checkpoint, resumed with `changes`, and the batches whose reference
    it scores."""
    run_until([(options, 2)])
    trainer = make_trainer([*options, *changes])
    scored, look = [], trainer.reference._score
    trainer.reference._score = lambda batch, *others: scored.append(batch.number) or look(batch, *others)
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

        def looks(batch: ListBatch, *others: Any) -> torch.Tensor:
            numbers.append(batch.number)
            if len(numbers) == signal_at and rank() == world_size() - 1:
                signal.raise_signal(signal.SIGTERM)
            return look(batch, *others)

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
