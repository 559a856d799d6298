"""The cache of tokens: a text is tokenised once by all processes together, whatever happens to them or to the file."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from data.cache import entries, remove
from data.store.token_cache import FILE, Counted, TokenCache, open_token_cache

OPTIONS = {"limit": 4, "vocabulary_size": 70_000}


class Tokenizer:
    """A token per character, which counts the texts that it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> list[Counted]:
        self.texts += texts
        return [([ord(character) for character in text], len(text)) for text in texts]


def tokens(texts: list[str]) -> list[Counted]:
    """What a cache must give: the first `limit` tokens at least."""
    return [([ord(character) for character in text][:4], len(text)) for text in texts]


def cut(counted: list[Counted]) -> list[Counted]:
    return [(ids[:4], total) for ids, total in counted]


def opened(folder: Path, key: str = "a", **options: int) -> TokenCache:
    cache = open_token_cache(folder, "org/model", key, **(OPTIONS | options))
    assert cache is not None
    return cache


def test_a_text_is_tokenised_once(tmp_path: Path) -> None:
    tokenizer, texts = Tokenizer(), ["red", "", "a longer text", "東京 \ud800", "red "]
    first = opened(tmp_path)
    assert cut(first(tokenizer, texts)) == tokens(texts)
    assert tokenizer.texts == texts
    for cache in (first, opened(tmp_path), pickle.loads(pickle.dumps(first))):
        assert cache(tokenizer, texts[::-1]) == tokens(texts[::-1])
    assert tokenizer.texts == texts, "the second time nothing is tokenised, by this process or another"
    assert cut(first(tokenizer, ["new", "red"])) == tokens(["new", "red"])
    assert tokenizer.texts == [*texts, "new"]
    assert first(tokenizer, []) == []


def test_many_texts_in_one_call(tmp_path: Path) -> None:
    tokenizer, texts = Tokenizer(), [f"text {number}" for number in range(1700)]
    cache = opened(tmp_path, vocabulary_size=1000)
    assert cut(cache(tokenizer, texts)) == cache(tokenizer, texts) == tokens(texts)
    assert len(tokenizer.texts) == 1700
    assert cache.dtype.itemsize == 2 < opened(tmp_path, "b").dtype.itemsize


def test_another_tokenizer_or_limit_has_another_file(tmp_path: Path) -> None:
    files = {opened(tmp_path).file, opened(tmp_path, "b").file, opened(tmp_path, limit=5).file}
    assert len(files) == 3
    assert opened(tmp_path).file in files


def test_of_two_texts_with_one_key_the_first_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a hash is the key of a row, the other half tells the texts apart."""
    import data.store.token_cache as module

    monkeypatch.setattr(module, "xxh3_128_digest", lambda content: b"12345678" + content.ljust(8)[:8])
    tokenizer, cache = Tokenizer(), opened(tmp_path)
    assert cache(tokenizer, ["one"]) == [([111, 110, 101], 3)]
    for _ in range(2):
        assert cut(cache(tokenizer, ["two"])) == tokens(["two"])
    assert cache(tokenizer, ["one"]) == tokens(["one"])
    assert tokenizer.texts == ["one", "two", "two"]


def fill(cache: TokenCache, start: int) -> None:
    """Overlapping texts, until the process is killed."""
    for number in range(start, 10**9):
        texts = [f"text {number + i}" for i in range(8)]
        assert cut(cache(Tokenizer(), texts)) == tokens(texts)


def test_processes_that_are_killed_leave_whole_entries(tmp_path: Path) -> None:
    """By a fork, with a connection that the parent has open."""
    cache, context = opened(tmp_path), multiprocessing.get_context("fork")
    cache(Tokenizer(), ["of the parent"])
    processes = [context.Process(target=fill, args=(cache, start)) for start in (0, 0, 5)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 60
    while _num_entries(cache.file) < 60 and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 3
    found = _num_entries(cache.file)
    assert found >= 60
    texts, tokenizer = [f"text {number}" for number in range(found - 1)], Tokenizer()
    assert cut(opened(tmp_path)(tokenizer, texts)) == tokens(texts)
    assert len(tokenizer.texts) < found // 2, "most were there"
    assert cache(tokenizer, ["of the parent"]) == tokens(["of the parent"])
    assert sqlite3.connect(cache.file).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _num_entries(file: Path) -> int:
    connection = sqlite3.connect(file)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM tokens").fetchone()[0])
    finally:
        connection.close()


def test_while_another_process_writes_texts_are_tokenised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import data.store.token_cache as module

    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    cache, tokenizer = opened(tmp_path), Tokenizer()
    other = sqlite3.connect(cache.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert cut(cache(tokenizer, ["red"])) == tokens(["red"])
    other.execute("ROLLBACK")
    for _ in range(2):
        cache(tokenizer, ["red"])
    assert tokenizer.texts == ["red", "red"], "then it is stored"
    assert not caplog.records


@pytest.mark.parametrize("what", ["broken", "removed"])
def test_a_cache_that_fails_is_said_once_and_left(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, tokenizer = opened(tmp_path), Tokenizer()
    if what == "broken":
        cache.file.write_bytes(b"no database at all" * 500)
    else:
        cache.file.unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert cut(cache(tokenizer, ["red", "green"])) == tokens(["red", "green"])
    assert tokenizer.texts == ["red", "green"] * 2
    (record,) = caplog.records
    assert FILE in record.getMessage()
    assert f"launch/cache.py remove {cache.file.parent.name}" in record.getMessage()
    (entry,) = entries(tmp_path)
    remove(tmp_path, Path(entry.name).name)
    assert cut(opened(tmp_path)(tokenizer, ["red"])) == tokens(["red"])


def test_entries_that_are_not_whole_and_ids_that_do_not_fit_are_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path)(Tokenizer(), ["red"])
    connection = sqlite3.connect(opened(tmp_path).file)
    with connection:
        connection.execute("UPDATE tokens SET entry = substr(entry, 1, 17)")
    connection.close()
    assert opened(tmp_path)(Tokenizer(), ["red"]) == tokens(["red"])
    large = 2**31
    assert opened(tmp_path)(lambda texts: [([large], 1) for _ in texts], ["green"]) == [([large], 1)]
    assert len(caplog.records) == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokens").write_text("a file")
    assert open_token_cache(tmp_path, "model", "a", **OPTIONS) is None
    assert "texts are tokenised in every epoch" in caplog.text
