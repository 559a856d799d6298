"""Sizes and hashes distinguish an intact checkpoint from a broken one."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from engines.checkpoint import manifest
from engines.checkpoint.manifest import file_entries, first_problem, write_manifest
from engines.checkpoint.store import CheckpointStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path = tmp_path / "checkpoint"
    tmp_path.mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 5_000_000)  # more than one block
    write_manifest(tmp_path, file_entries(sorted(tmp_path.iterdir())))
    return tmp_path


def test_the_hash_is_that_of_the_whole_file(folder: Path) -> None:
    assert file_entries([folder / "a"]) == {
        "a": {"bytes": 5_000_000, "sha256": hashlib.sha256(b"a" * 5_000_000).hexdigest()}
    }
    assert first_problem(folder) is None


def test_each_part_of_the_files_is_seen_by_one_reader(folder: Path) -> None:
    (folder / "b").write_bytes(b"b" * 4_999_999 + b"x")
    assert [first_problem(folder, part, 3) for part in range(3)] == [
        None,
        "b has other content than was written (SHA-256)",
        None,
    ]
    assert first_problem(folder, 1, 2) is not None
    assert first_problem(folder, 0, 2) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', "\x00\x01"])
def test_a_manifest_that_is_none_is_a_problem(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    assert "manifest.json cannot be read" in str(first_problem(folder))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_cannot_be_read_now_is_not_called_broken(
    folder: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> str:
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(manifest, "sha256", fail)
    shutil.copytree(folder, tmp_path / "store" / "step-000001")
    store = CheckpointStore(tmp_path / "store")
    with pytest.raises(OSError, match=r"step-000001 cannot be read \(rank 0: .*/a'\): start the same command again"):
        store.latest()
    assert (store.root / "step-000001").is_dir()


def test_a_folder_in_the_place_of_a_file_is_a_problem(folder: Path) -> None:
    (folder / "a").unlink()
    (folder / "a").mkdir()
    assert str(first_problem(folder)).startswith("a has ")
