"""Checkpoints are whole or absent, and the last ones and the best stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.checkpoints import CheckpointStore
from engines.process_group import rank
from engines.testing import run_ranks


def write(folder: Path) -> None:
    (folder / f"rank{rank()}.txt").write_text("weights")


def interrupt(folder: Path) -> None:
    write(folder)
    raise KeyboardInterrupt


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def save_on_each_rank(root: Path) -> tuple[str, dict[str, int]]:
    store = CheckpointStore(root, keep=1)
    store.save(1, write, {"step": 1})
    store.mark_best(1)
    store.save(2, write, {"step": 2 + 100 * rank()})
    found = store.latest()
    assert found is not None
    return found[0].name, found[1]


def test_nothing_yet(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.latest() is None
    assert store.best() is None


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        store.save(step, write, {"step": step})
        if step == 10:
            store.mark_best(step)
    assert names(tmp_path) == ["best", "latest", "step-000010", "step-000030", "step-000040"]
    assert (tmp_path / "latest").read_text().strip() == "step-000040"
    assert store.best() == tmp_path / "step-000010"
    store.mark_best(40)
    assert names(tmp_path) == ["best", "latest", "step-000030", "step-000040"]
    assert store.latest() == (tmp_path / "step-000040", {"step": 40})


def test_an_interrupted_save_leaves_the_last_whole_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(1, write, {"step": 1})
    with pytest.raises(KeyboardInterrupt):
        store.save(2, interrupt, {"step": 2})
    (tmp_path / "step-000003").mkdir()  # as another tool or a full disk may leave it: no state
    assert store.latest() == (tmp_path / "step-000001", {"step": 1})
    assert store.save(2, write, {"step": 2}) == tmp_path / "step-000002"
    assert store.latest() == (tmp_path / "step-000002", {"step": 2})


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(5, write, {"best": None})
    store.save(5, write, {"best": 5})
    assert store.latest() == (tmp_path / "step-000005", {"best": 5})


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (999_999, 1_000_000):
        store.save(step, write, {"step": step})
    assert store.latest() == (tmp_path / "step-1000000", {"step": 1_000_000})


def test_all_ranks_write_and_rank_0_keeps_the_state(tmp_path: Path) -> None:
    assert run_ranks(save_on_each_rank, 2, tmp_path) == [("step-000002", {"step": 2})] * 2
    assert names(tmp_path) == ["best", "latest", "step-000001", "step-000002"]
    assert names(tmp_path / "step-000002") == ["rank0.txt", "rank1.txt", "trainer_state.json"]


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer.keep_checkpoints must be at least 1, got 0"):
        CheckpointStore(tmp_path, keep=0)
