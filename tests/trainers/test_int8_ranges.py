"""The int8 ranges of quantisation-aware training: exact on several ranks, in every engine, resumed and exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import make_trainer, run_several, run_until
from torch import Tensor

from engines.distributed.testing import run_ranks
from models.bi_encoder import BiEncoderConfig
from trainers.state import load_engine

STEPS = 6
LOSS = ["loss=matryoshka_quantization_aware", "loss.dims=[32,16]"]
COMMON = ["+exp=embedder_quantization_aware", *LOSS, "eval=retrieval", "eval.depth=100"]
COMMON += [f"trainer.max_steps={STEPS}", "trainer.eval_every=3", "trainer.save_every=2"]
RANGES = ("int8_ranges.dim_32", "int8_ranges.dim_16")
COMPARED = ("loss", "grad_norm", "score_checksum", "nDCG@10", "loss/dim_32", "dim_16/loss/int8", "dim_32/loss/binary")

Runs = list[tuple[list[dict[str, float]], dict[str, Tensor]]]


def commands(tiny_run: list[str], *engines: str) -> list[list[str]]:
    """A run of each engine, then one of the torch engine without updates."""
    runs = [[*tiny_run, *COMMON, f"engine={engine}", f"run_name={engine}"] for engine in engines]
    return [*runs, [*tiny_run, *COMMON, "run_name=frozen", "trainer.learning_rate=0"]]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]]) -> Runs:
    folder = tmp_path_factory.mktemp("one")
    return run_ranks(run_several, 1, commands(tiny_overrides(folder), "torch"), timeout_s=280)[0]


@pytest.mark.parametrize(("world_size", "engine"), [(4, "torch"), (2, "zero3")])
def test_several_ranks_equal_one(world_size: int, engine: str, tiny_run: list[str], one_process: Runs) -> None:
    several = run_ranks(run_several, world_size, commands(tiny_run, engine), timeout_s=280)
    (expected, weights), (_, frozen) = one_process
    for of_rank in several:
        (found, found_weights), (_, found_frozen) = of_rank
        for one, two in zip(expected, found, strict=True):
            assert one.keys() == two.keys()
            for name in one.keys() & {*COMPARED}:
                assert two[name] == pytest.approx(one[name], rel=1e-3, abs=2e-4), (name, one, two)
        for name in RANGES:
            assert torch.equal(found_frozen[name], frozen[name]), "without rounding of updates: bit by bit"
            assert torch.equal(found_weights[name], several[0][0][1][name]), "the same on all ranks"
            torch.testing.assert_close(found_weights[name], weights[name], atol=1e-3, rtol=0)
            assert not torch.equal(weights[name], frozen[name]), "training moves them"


def observed(trainer: Any) -> dict[int, list[Tensor]]:
    """Record the documents of every step, of unit length, by dim, and check what the loss is given."""
    seen: dict[int, list[Tensor]] = {32: [], 16: []}
    objective = trainer.objective

    def record(lists: Any, batch: Any) -> Any:
        for dim, parts in seen.items():
            parts.append(torch.nn.functional.normalize(lists.documents[lists.mask][:, :dim].detach(), dim=-1))
            assert torch.equal(lists.int8_ranges[dim], extremes(parts)), "those of the step included"
        return objective(lists, batch)

    trainer.objective = record
    return seen


def extremes(parts: list[Tensor]) -> Tensor:
    rows = torch.cat(parts)
    return torch.stack([rows.amin(0), rows.amax(0)])


def test_they_are_the_extremes_of_all_documents_and_are_exported(tiny_run: list[str], tmp_path: Path) -> None:
    trainer = make_trainer([*tiny_run, *COMMON, "trainer.token_budget=64", "trainer.kept_chunks=1"])
    seen = observed(trainer)
    trainer.fit()
    model = trainer.engine.model
    for dim, parts in seen.items():
        assert len(parts) == STEPS
        assert torch.equal(getattr(model.int8_ranges, f"dim_{dim}"), extremes(parts))
    model.export(tmp_path / "export")
    for name, dim in (("int8_ranges.npy", 32), ("int8_ranges_dim16.npy", 16)):
        assert np.array_equal(np.load(tmp_path / "export" / name), extremes(seen[dim]).numpy())
    read = BiEncoderConfig(str(tmp_path / "export")).build(seed=0).int8_ranges
    assert {dim: value.tolist() for dim, value in read.known().items()} == {
        dim: extremes(parts).tolist() for dim, parts in seen.items()
    }


def test_a_step_that_is_not_finite_changes_none(tiny_run: list[str]) -> None:
    trainer = make_trainer([*tiny_run, *COMMON, "trainer.max_steps=3", "trainer.on_nonfinite=skip"])
    seen = observed(trainer)
    objective = trainer.objective

    def broken(lists: Any, batch: Any) -> Any:
        if batch.number != 1:
            return objective(lists, batch)
        loss, statistics = trainer.losses.of(batch.source)(lists)
        return loss * float("nan"), statistics

    trainer.objective = broken
    trainer.fit()
    assert trainer.state.skipped_batches == [1]
    for dim, parts in seen.items():
        assert len(parts) == 3
        assert torch.equal(getattr(trainer.engine.model.int8_ranges, f"dim_{dim}"), extremes(parts))


@pytest.mark.parametrize("change", [("torch", "torch"), ("zero2", "zero3")])
def test_a_resumed_run_is_the_uninterrupted_one(
    change: tuple[str, str], tiny_run: list[str], one_process: Runs
) -> None:
    first, then = ([*tiny_run, *COMMON, f"engine={engine}", "run_name=left"] for engine in change)
    run_ranks(run_until, 2 if change[0] != "torch" else 1, [(first, 5)], timeout_s=280)
    [(found, weights)] = run_ranks(run_several, 2 if change[1] != "torch" else 1, [then], timeout_s=280)[0]
    expected, whole = one_process[0]
    assert len(found) == len(expected)
    exact = change == ("torch", "torch")
    for name in RANGES if not exact else whole:
        tolerance = 0.0 if exact else 1e-3
        torch.testing.assert_close(weights[name], whole[name], atol=tolerance, rtol=0)


def test_another_loss_drops_them_and_goes_on_from_such_a_checkpoint(
    tiny_run: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer([*tiny_run, *COMMON, "trainer.max_steps=2"])
    trainer.fit()
    export = tmp_path / "export"
    trainer.engine.model.export(export)
    plain = ["+exp=embedder_infonce", *tiny_run, "eval.depth=100", "trainer.max_steps=3", "run_name=plain"]
    start = f"model.name_or_path={export}"
    other = make_trainer([*plain, start])
    assert other.engine.model.int8_ranges is None
    assert "its int8 ranges are dropped" in caplog.text
    other.fit()
    other.engine.model.export(tmp_path / "other")
    assert not list((tmp_path / "other").glob("*.npy"))
    again = make_trainer([*tiny_run, *COMMON, start, "trainer.max_steps=2", "run_name=again"])
    assert torch.equal(again.engine.model.int8_ranges.dim_32, torch.from_numpy(np.load(export / "int8_ranges.npy")))
    load_engine(again.engine, other.checkpoints.latest()[0])  # it has none: those of the start stay
    assert torch.equal(again.engine.model.int8_ranges.dim_32, torch.from_numpy(np.load(export / "int8_ranges.npy")))
