import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.cache import UNFINISHED, cached, entries, remove


def test_many_askers_make_it_once(tmp_path: Path):
    path, made = tmp_path / "new" / "folder", []

    def make(temporary: Path) -> None:
        made.append(temporary)
        temporary.mkdir()
        (temporary / "file").write_text("content")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached(path, make), range(8)))
    assert len(made) == 1
    assert made[0] != path
    assert found == [path] * 8
    assert (path / "file").read_text() == "content"


def test_an_interrupted_one_is_made_again(tmp_path: Path):
    def broken(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "file", broken)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
    assert cached(tmp_path / "file", lambda path: path.write_text("whole") and None).read_text() == "whole"


def test_a_folder_that_cannot_be_written_names_the_key(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in (Path("/proc/x"), tmp_path / "file"):
        with pytest.raises(ValueError, match=rf"data.cache_dir: {folder} cannot be written \(.*\); choose"):
            cached(folder / "made", lambda path: None)


def test_what_a_killed_process_left_is_replaced(tmp_path: Path):
    left = tmp_path / "texts" / f"{UNFINISHED}one" / "one"
    left.mkdir(parents=True)
    (left / "piece").touch()
    assert not list(cached(tmp_path / "texts" / "one", Path.mkdir).iterdir())
    assert [entry.name for entry in entries(tmp_path)] == ["texts/one"]


def test_one_that_is_being_made_is_not_removed(tmp_path: Path):
    def make(path: Path) -> None:
        (unfinished,) = entries(tmp_path)
        with pytest.raises(ValueError, match="is being made by a process that runs"):
            remove(tmp_path, unfinished.name)
        path.mkdir()

    assert cached(tmp_path / "texts" / "one", make).is_dir()


def test_a_resumable_one_leaves_nothing_if_nothing_was_begun(tmp_path: Path):
    def broken(path: Path) -> None:
        raise ValueError("a mistake in the first line")

    with pytest.raises(ValueError, match="first line"):
        cached(tmp_path / "texts" / "one", broken, resumable=True)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("500 requested and 100 written")]
)
def test_a_full_disk_names_the_key(tmp_path: Path, error: OSError):
    def make(path: Path) -> None:
        raise error

    with pytest.raises(ValueError, match=rf"data.cache_dir: {tmp_path} has no space left .* or choose another folder"):
        cached(tmp_path / "one", make)


def test_a_missing_file_of_the_user_is_no_full_disk(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        cached(tmp_path / "one", lambda path: (tmp_path / "missing").read_text() and None)
