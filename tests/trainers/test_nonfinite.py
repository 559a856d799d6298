"""A batch without a finite loss or gradient: the run stops, or goes on as if that batch were not in its data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import make_trainer, metrics_of

from data.collate import pad
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks

SETTINGS = ["trainer.max_steps=6", "trainer.eval_every=3", "trainer.save_every=2"]
SUPERVISED = ["+exp=reranker_contrastive", *SETTINGS]
GRPO = ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.beta=0.1", *SETTINGS]
BAD = 3  # the number of the batch; the first is 0


def break_loss(trainer: Any, bad: tuple[int, ...] = (BAD,)) -> None:
    objective = trainer.objective

    def broken(lists: Any, batch: Any) -> Any:
        loss, statistics = objective(lists, batch)
        return (loss * float("nan") if batch.number in bad else loss), statistics

    trainer.objective = broken


def break_gradient(trainer: Any, on_rank: int) -> None:
    """In the backward, where only the engine can notice it, on one rank."""
    backward = trainer.engine.backward

    def broken(surrogate: Any, *, last: bool) -> None:
        bad = trainer.batches.current.number == BAD and rank() == on_rank
        backward(surrogate * float("inf") if bad else surrogate, last=last)

    trainer.engine.backward = broken


def run(settings: list[str], breaks: Callable[[Any], None] | None = None, without: tuple[int, ...] = ()) -> Any:
    trainer = make_trainer(settings)
    trainer.state.skipped_batches = list(without)
    if breaks is not None:
        breaks(trainer)
    trainer.fit()
    return trainer


def records_of(trainer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trainer.run.path / "nonfinite.jsonl").read_text().splitlines()]


def test_the_run_stops_and_names_the_batch(tiny_run: list[str]) -> None:
    trainer = make_trainer([*SUPERVISED, *tiny_run])
    break_loss(trainer)
    with pytest.raises(FloatingPointError, match=r"step 4: .*\(loss nan\): nonfinite.jsonl .*on_nonfinite=skip"):
        trainer.fit()
    (record,) = records_of(trainer)
    assert (record["step"], record["batch"], record["action"]) == (4, BAD, "stop")
    batch = trainer.batches.for_step(4)
    assert [query["query_id"] for query in record["queries"]] == [example.query_id for example in batch.examples]
    assert record["queries"][0]["document_ids"] == list(batch.examples[0].document_ids)
    go_on = [*SUPERVISED, *tiny_run, "trainer.on_nonfinite=skip"]  # may be decided afterwards
    assert run(go_on, break_loss).state.step == 6


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_batch_that_is_left_out_might_as_well_not_be_in_the_data(policy: str, tiny_run: list[str]) -> None:
    settings = [*SUPERVISED, *tiny_run, f"trainer.on_nonfinite={policy}"]
    expected = run([*settings, "run_name=without"], without=(1, BAD))
    found = run([*settings, "run_name=broken"], lambda trainer: break_loss(trainer, (1, BAD)))
    assert metrics_of(found) == metrics_of(expected)
    assert found.state.skipped_batches == [1, BAD]
    assert {record["action"] for record in records_of(found)} == {policy}
    assert found.engine.learning_rate() == expected.engine.learning_rate()


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_between_the_updates_of_a_batch_and_resumed(policy: str, tiny_run: list[str]) -> None:
    """The second of two updates on batch 1 breaks: another batch takes its place, with a policy of its own."""

    def breaks(trainer: Any, stop_at: int | None = None) -> None:
        objective = trainer.objective
        seen: dict[int, int] = {}

        def broken(lists: Any, batch: Any) -> Any:
            if trainer.state.step == stop_at:
                raise KeyboardInterrupt
            loss, statistics = objective(lists, batch)
            seen[trainer.state.step] = batch.number
            return (loss * float("nan") if trainer.state.step == 4 and batch.number == 1 else loss), statistics

        trainer.objective = broken
        trainer.seen = seen

    settings = [*GRPO, *tiny_run, f"trainer.on_nonfinite={policy}", "trainer.save_every=1"]
    whole = run([*settings, "run_name=whole"], breaks)
    assert whole.seen == {1: 0, 2: 0, 3: 1, 4: 2, 5: 3, 6: 3}
    stopped = make_trainer([*settings, "run_name=stopped"])
    breaks(stopped, stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    resumed = run([*settings, "run_name=stopped"], breaks)
    assert metrics_of(resumed) == metrics_of(whole)
    assert resumed.state.skipped_batches == [1]


def test_too_many_stop_the_run(tiny_run: list[str]) -> None:
    settings = [*SUPERVISED, *tiny_run, "trainer.on_nonfinite=skip", "trainer.max_nonfinite=2"]
    trainer = make_trainer(settings)
    break_loss(trainer, tuple(range(100)))
    alerts: list[str] = []
    trainer.logger.alert = lambda title, text: alerts.append(f"{title}: {text}")
    with pytest.raises(FloatingPointError, match=r"2 batches were skipped before it: .*trainer.max_nonfinite \(2\)"):
        trainer.fit()
    assert [record["action"] for record in records_of(trainer)] == ["skip", "skip", "stop"]
    assert [text.split(":")[:3] for text in alerts] == [
        ["a batch is not finite", f" step 1, batch {number}", f" {action}"]
        for number, action in enumerate(("skip", "skip", "stop"))
    ]


def test_rows_that_are_not_finite_are_named(tiny_run: list[str]) -> None:
    trainer = make_trainer([*SUPERVISED, *tiny_run, "trainer.on_nonfinite=skip"])
    forward = trainer.engine.forward
    batch = trainer.batches.for_step(1)
    bad = 4  # a row of the first batch
    row = pad(batch.sequences, [bad], {})["input_ids"][0]

    def broken(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        output = forward(features)
        ids = features["input_ids"][:, : len(row)]
        hit = (ids == row).all(dim=1) if ids.shape[1] == len(row) else torch.zeros(len(ids), dtype=torch.bool)
        return {name: torch.where(hit, float("inf"), value) for name, value in output.items()}

    trainer.evaluator = None
    trainer.engine.forward = broken
    trainer.fit()
    record = records_of(trainer)[0]
    query, document = batch.sequence_ids(bad)
    assert {"query_id": query, "document_id": document} in record["rows"]
    assert len(record["rows"]) < len(batch.sequences)


def run_engines(folder: Path, overrides: list[str]) -> list[tuple[str, Any, Any]]:
    """Of every engine: the metrics of a run whose gradient breaks on rank 1 alone, and of one without that batch."""
    found = []
    for engine in ("torch", "zero0", "zero1", "zero2", "zero3"):
        runs = []
        for name, without in (("broken", ()), ("without", (BAD,))):
            settings = [*SUPERVISED, *overrides, f"engine={engine}", f"run_name={engine}-{name}"]
            settings += ["trainer.on_nonfinite=rollback" if engine == "zero2" else "trainer.on_nonfinite=skip"]
            trainer = run(settings, None if without else lambda trainer: break_gradient(trainer, 1), without)
            runs.append(metrics_of(trainer))
            if hasattr(trainer.engine, "engine"):
                trainer.engine.engine.destroy()
        found.append((engine, *runs))
    return found


def test_every_engine_leaves_out_what_breaks_on_one_rank(
    tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    for engine, found, expected in run_ranks(run_engines, 2, tmp_path, tiny_overrides(tmp_path), timeout_s=280)[0]:
        assert found == expected, engine
        assert len({line["loss"] for line in found if line["split"] == "train"}) == 6


FP16 = [*SUPERVISED, "engine.precision=fp16"]


def test_fp16_repeats_a_step_and_trains_as_float32(tiny_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The gradient of one step overflows once: no batch is skipped, and metrics and schedule are near float32's."""
    trainer = make_trainer([*FP16, *tiny_run, "run_name=fp16"])
    backward, broken = trainer.engine.backward, []

    def overflows_once(surrogate: Any, *, last: bool) -> None:
        first = trainer.state.step == 3 and not broken
        broken.extend([3] * first)
        backward(surrogate * float("inf") if first else surrogate, last=last)

    trainer.engine.backward = overflows_once
    trainer.fit()
    printed = capsys.readouterr().err
    assert printed.count("step 3: gradients overflow in fp16: the step is repeated with a loss scale of 32768") == 1
    exact = run([*SUPERVISED, *tiny_run, "run_name=fp32"])
    assert not trainer.state.skipped_batches
    assert not (trainer.run.path / "nonfinite.jsonl").exists()
    assert trainer.engine.learning_rate() == exact.engine.learning_rate()
    assert [line.get("loss_scale") for line in metrics_of(trainer) if line["split"] == "train"] == [65536.0] * 2 + [
        32768.0
    ] * 4
    for line, other in zip(metrics_of(trainer), metrics_of(exact), strict=True):
        assert "loss_scale" not in other
        for name in {"loss", "grad_norm"} & line.keys():
            assert line[name] == pytest.approx(other[name], rel=0.02), name
            assert line[name] != other[name], name


def test_fp16_resumes_bit_by_bit_between_updates_of_a_batch(tiny_run: list[str]) -> None:
    settings = [*GRPO, *tiny_run, "engine.precision=fp16", "trainer.save_every=1"]

    def breaks(trainer: Any, stop: bool = False) -> None:
        """Steps 2 and 4, each the second update of a batch, overflow once; after step 4 the run stops."""
        step, seen = trainer.engine.step, set()

        def broken(finite: torch.Tensor) -> float:
            number = trainer.state.step
            if number in (2, 4) and number not in seen:
                seen.add(number)
                for parameter in trainer.engine.trainable:
                    parameter.grad.fill_(float("inf"))
            if stop and number == 5:
                raise KeyboardInterrupt
            return step(finite)

        trainer.engine.step = broken

    whole = run([*settings, "run_name=whole"], breaks)
    assert whole.engine.loss_scale == 2.0**14
    stopped = make_trainer([*settings, "run_name=stopped"])
    breaks(stopped, stop=True)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    resumed = run([*settings, "run_name=stopped"])
    assert metrics_of(resumed) == metrics_of(whole)


def test_an_output_that_is_not_finite_in_fp16_names_the_precision(tiny_run: list[str]) -> None:
    trainer = make_trainer([*FP16, *tiny_run])
    forward = trainer.engine.forward
    trainer.engine.forward = lambda features: {name: value / 0 for name, value in forward(features).items()}
    trainer.evaluator = None
    with pytest.raises(
        FloatingPointError, match=r"set engine.precision=fp32 or bf16 \(fp16 ends at 65,504\), or lower"
    ):
        trainer.fit()
