from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.cache import cached


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
