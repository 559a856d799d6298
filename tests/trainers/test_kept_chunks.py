"""trainer.kept_chunks=auto keeps as many chunks as fit into the memory that is free, on all ranks alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import make_trainer, metrics_of

import engines.memory.kept_chunks
from data.collate import Collator
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks
from engines.memory.kept_chunks import ChunkProbe
from engines.memory.live_bytes import FakeTensorModel
from launch.cli.errors import explain
from trainers.out_of_memory import ChunkOutOfMemory, explain_out_of_memory

RUN = ["+exp=reranker_contrastive", "trainer.max_steps=3", "trainer.save_every=3"]
AUTO = "trainer.kept_chunks=auto"
BUDGET = 160  # tokens of a chunk in `tiny_run`


def fit(overrides: list[str], available: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run with auto in which so many bytes are free."""
    monkeypatch.setattr(engines.memory.kept_chunks, "available_bytes", lambda device: available)
    return run(*overrides, AUTO)


def run(*overrides: str) -> Any:
    trainer = make_trainer([*RUN, *overrides])
    trainer.evaluator = None
    trainer.fit()
    return trainer


def assert_alike(one: Any, other: Any) -> None:
    """The losses and gradients, with dropout; another order of chunks adds in another order."""
    for line, expected in zip(metrics_of(one), metrics_of(other), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, float]]:
    """What is measured of a chunk: held and peak bytes, and how much larger a chunk may be."""
    found, choose = [], ChunkProbe.fitting

    def fitting(probe: ChunkProbe, largest: float) -> int:
        found.append((probe.held, probe.peak, largest))
        return choose(probe, largest)

    monkeypatch.setattr(ChunkProbe, "fitting", fitting)
    return found


def test_a_memory_limit_gives_the_number_that_fits_and_changes_no_result(
    tiny_run: list[str],
    probes: list[tuple[int, int, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = fit([*tiny_run, "run_name=all"], 1e12, monkeypatch)
    assert len(probes) == 1, "one step is measured"
    held, peak, largest = probes[0]
    for number in (1, 3):
        limit = largest * (peak + (number - 0.5) * held)
        trainer = fit([*tiny_run, f"run_name=fits{number}"], limit, monkeypatch)
        assert trainer.gradient_cache.kept.count == number
        line = f"trainer.kept_chunks=auto: up to {number} chunks of a rank keep their activations ("
        assert capsys.readouterr().err.count(line) == 1
        assert_alike(trainer, whole)
    assert_alike(run(*tiny_run, "run_name=fixed"), whole)


def test_a_measured_chunk_holds_what_the_plan_predicts(
    tiny_run: list[str], probes: list[tuple[int, int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = fit([*tiny_run, "model.dropout=0", "model.packing=false"], 1e12, monkeypatch)
    [(held, peak, largest)] = probes
    lengths = trainer.batches.for_step(2).sequences.lengths.tolist()
    collator = Collator({}, BUDGET)
    chunk = collator.plan(lengths)[0]
    assert largest == BUDGET / collator.cost(lengths, chunk) >= 1
    features = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 1}
    expected = FakeTensorModel(trainer.engine.model, autocast=None).chunk(features, *collator.shape(lengths, chunk))
    assert held == pytest.approx(expected.held, rel=0.1)
    assert peak == pytest.approx(expected.first_backward, rel=0.1)


def counts(tiny_run: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """The number that a rank keeps, where the last one has little memory."""
    free = 1.0 if rank() else 1e12
    engines.memory.kept_chunks.available_bytes = lambda device: free  # type: ignore[assignment]
    trainer = run(*tiny_run, AUTO)
    return trainer.gradient_cache.kept.count, [line["loss"] for line in metrics_of(trainer) if "loss" in line]


def test_all_ranks_keep_as_many_as_the_one_with_least_memory(tiny_run: list[str], tmp_path: Path) -> None:
    (one, losses), (other, same) = run_ranks(counts, 2, tiny_run, timeout_s=280)
    assert one == other == 1
    assert losses == same
    alone = metrics_of(run(*tiny_run, f"output_dir={tmp_path / 'alone'}"))
    assert losses == pytest.approx([line["loss"] for line in alone if "loss" in line], rel=1e-4)


def test_memory_that_runs_out_later_names_half_the_number(tiny_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fit(tiny_run, 1e12, monkeypatch)
    kept, batch = trainer.gradient_cache.kept, trainer.batches.for_step(1)
    kept.count = 9
    with pytest.raises(MemoryError) as caught, explain_out_of_memory(batch, trainer.config, kept):
        raise ChunkOutOfMemory([0], "a chunk") from torch.OutOfMemoryError("tried to allocate 2 GiB. x")
    assert ": set trainer.kept_chunks=4 (auto chose 9), then trainer.token_budget (160 " in explain(caught.value)
    kept.count = 1
    with (
        pytest.raises(MemoryError, match=r": lower trainer.kept_chunks \(auto: 1\), then"),
        explain_out_of_memory(batch, trainer.config, kept),
    ):
        raise ChunkOutOfMemory([0], "a chunk") from torch.OutOfMemoryError("tried to allocate 2 GiB. x")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("-1", "trainer.kept_chunks must be a number of at least 0, or auto, got -1"),
        ("all", "trainer.kept_chunks='all' is not an integer or auto"),
        ("2.5", "trainer.kept_chunks=2.5 is not an integer or auto"),
    ],
)
def test_other_values_are_refused(value: str, said: str, tiny_run: list[str]) -> None:
    with pytest.raises(ValueError, match=said):
        make_trainer([*RUN, *tiny_run, f"trainer.kept_chunks={value}"])
