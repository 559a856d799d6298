"""Checkpoints are atomic, and the last ones and the best are kept."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.checkpoint.store import STATE_FILE, CheckpointStore
from engines.distributed.process_group import barrier, rank
from engines.distributed.testing import run_ranks


def write(folder: Path) -> list[Path]:
    file = folder / f"rank{rank()}.txt"
    file.write_text("weights")
    return [file]


def interrupt(folder: Path) -> list[Path]:
    write(folder)
    raise KeyboardInterrupt


def write_on_a_full_disk(folder: Path) -> list[Path]:
    files = write(folder)
    if rank() == 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    return files


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def save_on_each_rank(root: Path) -> tuple[str, dict[str, int]]:
    store = CheckpointStore(root, keep=1)
    store.save(1, write, {"step": 1}, best=True)
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
        store.save(step, write, {"step": step}, best=step == 10)
    assert names(tmp_path) == ["best", "latest", "step-000010", "step-000030", "step-000040"]
    assert (tmp_path / "latest").read_text().strip() == "step-000040"
    assert store.best() == tmp_path / "step-000010"
    store.save(50, write, {"step": 50}, best=True)
    assert names(tmp_path) == ["best", "latest", "step-000040", "step-000050"]
    assert store.latest() == (tmp_path / "step-000050", {"step": 50})


def test_what_a_kept_checkpoint_names_as_its_best_stays(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step, best_step in ((10, 10), (20, 10), (30, 30)):
        store.save(step, write, {"step": step, "best_step": best_step}, best=step == best_step)
    assert names(tmp_path)[2:] == ["step-000010", "step-000020", "step-000030"]
    (tmp_path / "step-000030" / "rank0.txt").unlink()
    assert store.latest() == (tmp_path / "step-000020", {"step": 20, "best_step": 10})
    assert store.set_pointers(20, 10)
    assert store.best() == tmp_path / "step-000010"
    for step in (40, 50):
        store.save(step, write, {"step": step, "best_step": 40}, best=step == 40)
    assert names(tmp_path) == ["best", "latest", "step-000030.broken", "step-000040", "step-000050"]


def test_an_interrupted_save_leaves_the_last_whole_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(1, write, {"step": 1})
    with pytest.raises(KeyboardInterrupt):
        store.save(2, interrupt, {"step": 2})
    assert len(names(tmp_path)) == 3
    assert store.latest() == (tmp_path / "step-000001", {"step": 1})
    assert names(tmp_path) == ["latest", "step-000001"]
    assert store.save(2, write, {"step": 2}) == tmp_path / "step-000002"
    assert store.latest() == (tmp_path / "step-000002", {"step": 2})


def no_state(folder: Path) -> None:
    (folder / STATE_FILE).unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def half_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:20])


def truncated(folder: Path) -> None:
    (folder / "rank0.txt").write_text("weig")


def one_bit(folder: Path) -> None:
    content = bytearray((folder / "rank0.txt").read_bytes())
    content[3] ^= 4
    (folder / "rank0.txt").write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_state, "trainer_state.json is missing"),
        (no_manifest, "manifest.json is missing"),
        (half_a_manifest, "manifest.json cannot be read"),
        (truncated, "rank0.txt has 4 bytes instead of 7"),
        (one_bit, "rank0.txt has other content than was written"),
    ],
)
def test_a_broken_one_is_named_and_the_one_before_it_used(
    harm: Callable[[Path], None], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, write, {"step": 1}, best=True)
    store.save(2, write, {"step": 2})
    harm(tmp_path / "step-000002")
    with caplog.at_level(logging.WARNING):
        assert store.latest() == (tmp_path / "step-000001", {"step": 1})
    assert f"step-000002 is broken: {message}" in caplog.text
    assert store.set_pointers(1, 1)
    assert (tmp_path / "latest").read_text().strip() == "step-000001"
    store.save(2, write, {"step": 2})
    assert store.latest() == (tmp_path / "step-000002", {"step": 2})


def test_where_all_are_broken_nothing_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2):
        store.save(step, write, {"step": step})
        truncated(tmp_path / f"step-{step:06d}")
    assert store.latest() is None
    assert "there is none before it" in caplog.text


def test_a_best_that_is_broken_is_not_pointed_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, write, {"step": 1}, best=True)
    store.save(2, write, {"step": 2})
    one_bit(tmp_path / "step-000001")
    assert not store.set_pointers(2, 1)
    assert "the best checkpoint" in caplog.text
    assert not store.set_pointers(2, 7)
    with pytest.raises(ValueError, match=r"step-000001 is broken: rank0.txt has other content .*; remove that folder"):
        store.best()
    assert store.set_pointers(2, None)
    assert store.best() is None


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(5, write, {"best": None})
    store.save(5, write, {"best": 5})
    assert store.latest() == (tmp_path / "step-000005", {"best": 5})
    assert names(tmp_path) == ["latest", "step-000005"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(5, write, {"step": 5})
    (tmp_path / "step-000005").rename(tmp_path / ".old-step-000005")
    assert store.latest() == (tmp_path / "step-000005", {"step": 5})


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (999_999, 1_000_000):
        store.save(step, write, {"step": step})
    assert store.latest() == (tmp_path / "step-1000000", {"step": 1_000_000})


def test_all_ranks_write_and_rank_0_keeps_the_state(tmp_path: Path) -> None:
    assert run_ranks(save_on_each_rank, 2, tmp_path) == [("step-000002", {"step": 2})] * 2
    assert names(tmp_path) == ["best", "latest", "step-000001", "step-000002"]
    assert names(tmp_path / "step-000002") == ["manifest.json", "rank0.txt", "rank1.txt", "trainer_state.json"]


def fail_on_each_rank(root: Path, background: bool) -> list[str]:
    """The errors of a full disk on rank 1 and, once rank 0's shard is broken too, the checkpoint that is used."""
    store = CheckpointStore(root, keep=3, background=background)
    for step in (1, 2):
        store.save(step, write, {"step": step})
    store.wait()
    heard = []
    try:
        store.save(3, write_on_a_full_disk, {"step": 3})
        store.wait()
    except OSError as error:
        heard.append(str(error))
    if rank() == 1:
        truncated(root / "step-000002")
    store.save(4, write, {"step": 4})
    store.wait()
    if rank() == 1:
        shutil.rmtree(root / "step-000004")
    barrier()
    found = store.latest()
    return [*heard, found[0].name if found else "none"]


@pytest.mark.parametrize("background", [False, True])
def test_all_ranks_hear_of_a_full_disk_and_of_a_broken_shard(tmp_path: Path, background: bool) -> None:
    first, second = run_ranks(fail_on_each_rank, 2, tmp_path, background)
    assert first == second
    message, used = first
    assert "step 3 could not be written (rank 1: [Errno 28] No space left on device)" in message
    assert used == "step-000001"
    assert names(tmp_path) == ["latest", "step-000001", "step-000002.broken"]


def test_in_the_background_one_is_written_while_the_caller_goes_on(tmp_path: Path) -> None:
    go_on, seen = threading.Event(), []

    def write_slowly(folder: Path) -> list[Path]:
        assert go_on.wait(20)
        seen.append(names(tmp_path))
        return write(folder)

    store = CheckpointStore(tmp_path, keep=2, background=True)
    store.save(1, write_slowly, {"step": 1}, best=True)
    assert not (tmp_path / "step-000001").exists()
    go_on.set()
    store.save(2, write_slowly, {"step": 2})  # waits for the first
    assert (tmp_path / "step-000001").exists()
    assert store.best() == tmp_path / "step-000001"
    assert [len(there) for there in seen] == [1, 4]
    assert json.loads((tmp_path / "step-000002" / STATE_FILE).read_text()) == {"step": 2}


def test_an_error_in_the_background_is_raised_by_the_next_save(tmp_path: Path) -> None:
    def write_badly(folder: Path) -> list[Path]:
        raise RuntimeError("a bug")

    store = CheckpointStore(tmp_path, keep=2, background=True)
    store.save(1, write_badly, {"step": 1})
    with pytest.raises(RuntimeError, match="a bug"):
        store.save(2, write, {"step": 2})
    store.save(2, write, {"step": 2})
    store.wait()
    assert names(tmp_path) == ["latest", "step-000002"]


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer.keep_checkpoints must be at least 1, got 0"):
        CheckpointStore(tmp_path, keep=0)
