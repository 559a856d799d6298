from pathlib import Path

import pytest
from filelock import FileLock

from launch.cache import main


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for name, size in (("texts/a-1/part", 2**20), ("candidates/bm25-2.npz", 2**19), ("texts/.making-b/b/part", 10)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "texts" / "a-1.lock").touch()
    (tmp_path / "mine.txt").write_text("not of the cache")
    return tmp_path


def test_list_and_size(cache: Path, capsys: pytest.CaptureFixture[str]):
    main(["list", f"data.cache_dir={cache}"])
    listed = capsys.readouterr().out
    assert "1.0 MiB" in listed
    assert "texts/a-1\n" in listed
    assert "texts/.making-b  (not finished)" in listed
    assert f"1.5 MiB  in 3 entries of {cache}" in listed
    assert "mine.txt" not in listed
    main(["size", f"data.cache_dir={cache}"])
    assert "0.5 MiB  candidates\n" in capsys.readouterr().out


def test_remove(cache: Path, capsys: pytest.CaptureFixture[str]):
    main(["remove", "a-1", "texts/.making-b", f"data.cache_dir={cache}"])
    assert "texts/a-1 removed" in capsys.readouterr().out
    assert not list((cache / "texts").iterdir())
    assert (cache / "mine.txt").exists()


def test_mistakes(cache: Path):
    place = f"data.cache_dir={cache}"
    for arguments, error in (
        (["remove", "mine.txt", place], "mine.txt is no entry of the cache"),
        (["remove", place], "remove takes the names of entries"),
        (["list", "a-1", place], "list and size take none"),
    ):
        with pytest.raises(ValueError, match=error):
            main(arguments)
    with FileLock(cache / "texts" / "a-1.lock"), pytest.raises(ValueError, match="being made by a process that runs"):
        main(["remove", "a-1", place])
    assert (cache / "texts" / "a-1").is_dir()
